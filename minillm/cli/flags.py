"""Config keys as command-line flags: names, help and defaults come from the dataclass that owns them.

The parser hands every value on as text; `config.py` alone reads it, so that a flag and a line of TOML are judged alike.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import Group, Parameter

from minillm.config import KEYS, SECTIONS


def with_flags(*sections: str, prefix: bool = True, only: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Decorate a command that takes `**given: str`: every key of the sections becomes one of its flags.

    `prefix` spells a flag --section.key, else --key. `only` limits them to these dotted keys. The command receives in
    `given` what was on the command line and nothing else; `overrides` turns that into dotted keys.
    """

    def decorate(command: Callable) -> Callable:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for section in sections:
            group = Group(f"[{section}]", sort_key=list(SECTIONS).index(section)) if prefix else None
            sentences = docstrings(SECTIONS[section])
            for item in fields(SECTIONS[section]):
                if not only or f"{section}.{item.name}" in only:
                    own.append(_flag(section, item.name, item.default, sentences[item.name], prefix, group))
        command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in own}
        return command

    return decorate


def overrides(given: Mapping[str, object]) -> dict[str, object]:
    """What a decorated command received, under dotted keys."""
    return {name.replace("__", ".", 1): value for name, value in given.items() if value is not None}


def docstrings(owner: type) -> dict[str, str]:
    """Field name -> the sentence under it, read from the dataclass's source."""
    body = ast.parse(inspect.getsource(owner)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for item, text in pairwise(body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(text, ast.Expr):
            found[item.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def _flag(section: str, key: str, default: object, sentence: str, prefix: bool, group: Group | None) -> Any:
    """The keyword parameter of one key. Its own default is None, which means: not on the command line."""
    hint = KEYS[f"{section}.{key}"]
    several = get_origin(hint) is tuple
    settings: dict[str, Any] = {} if group is None else {"group": group}
    parameter = Parameter(
        name=f"--{section}.{key}" if prefix else f"--{key.replace('_', '-')}",
        help=f"{sentence} [default: {_shown(default)}]",
        metavar=_metavar(hint),
        show_default=False,
        allow_leading_hyphen=hint in (str, tuple[str, ...]),  # a prompt may begin with a dash
        **settings,
    )
    annotation = Annotated[list[str] | None if several else str | None, parameter]
    return inspect.Parameter(f"{section}__{key}", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(default: object) -> str:
    """A default as one would type it."""
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return default if isinstance(default, str) and default.strip() else repr(default)


def _metavar(hint: Any) -> str:
    """What stands for the value in the help: the choices, or the kind of value."""
    names = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT"}
    kind = hint
    if get_origin(hint) not in (Literal, tuple, None):
        kind = get_args(hint)[0]
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return names.get(kind, "TEXT")
