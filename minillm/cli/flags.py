"""Config keys as command-line flags. Names, help and defaults come from the config dataclasses.

The parser passes values on as text, and `config.py` converts them, so the same rules hold for flags and TOML.
"""

import ast
import importlib.util
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from cyclopts import App, Group, Parameter

from minillm.config import DEFAULT_OBJECTIVE, KEYS, SECTIONS
from minillm.registry import OBJECTIVES
from minillm.settings import alternatives, typed

Quantize = Annotated[
    Literal[8, 4] | None,
    Parameter(help="Round the weights to 8 or 4 bits in memory, without writing a new run folder."),
]
"""The flag --quantize of the commands that run a model."""
Dtype = Annotated[
    Literal["auto", "fp32", "bf16"],
    Parameter(help="Precision of the weights. auto: the faster one, as measured on this machine."),
]
"""The flag --dtype of the commands that generate text."""
BASE = "minillm.objectives.base:TokenLossConfig"
"""The settings of every objective."""


def with_flags(
    *sections: str, prefix: bool = True, only: Collection[str] = (), show: Collection[str] = ()
) -> Callable[[Callable], Callable]:
    """Decorate a command that takes `**given: str`: the keys of config sections become its flags.

    `overrides` converts `given` to dotted keys.

    Args:
        sections: sections of the config.
        prefix: whether flags are --section.key, not --key; keys of [data], which errors name, are spelled both ways.
        only: dotted keys that become flags; empty: all.
        show: dotted keys that --help lists; empty: all.
    """

    def decorate(command: Callable) -> Callable:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for section in sections:
            group = Group(f"[{section}]", sort_key=list(SECTIONS).index(section)) if prefix else None
            declared = objective_fields() if section == "objective" else {}
            for key, text in (objective_texts() if declared else section_texts(section)).items():
                if not only or key in only:
                    several = key in declared and declared[key].annotation.startswith("tuple")
                    hint = tuple[str, ...] if several else KEYS.get(key, str)  # KEYS lacks keys of some objectives
                    own.append(_flag(key, text, hint, prefix, group, show=not show or key in show))
        command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in own}
        return command

    return decorate


def overrides(given: Mapping[str, object]) -> dict[str, object]:
    """The values given on the command line, by dotted key."""
    return {name.replace("__", ".", 1): value for name, value in given.items() if value is not None}


def section_texts(section: str) -> dict[str, str]:
    """Dotted key -> help text of a section of the config."""
    sentences = field_texts(inspect.getsource(SECTIONS[section]), SECTIONS[section].__name__)
    return {
        f"{section}.{item.name}": f"{sentences[item.name]} [default: {typed(item.default)}]"
        for item in fields(SECTIONS[section])
    }


class Field(NamedTuple):
    """A field as its source file declares it."""

    annotation: str
    text: str


def objective_texts() -> dict[str, str]:
    """Dotted key -> help text of all objectives."""
    name = f"What is learned: {', '.join(OBJECTIVES)}. [default: {DEFAULT_OBJECTIVE}]"
    return {"objective.name": name} | {key: item.text for key, item in objective_fields().items()}


def objective_fields() -> dict[str, Field]:
    """The fields of all objectives but `name`, read from their source files, because importing them imports torch."""
    found: dict[str, Field] = {}
    for name, reference in [("", BASE), *((name, spec.config) for name, spec in OBJECTIVES.items())]:
        module, _, owner = reference.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, "a row of the table names a module"
        for key, item in declared_fields(Path(spec.origin).read_text(encoding="utf-8"), owner).items():
            if key != "name":
                text = f"{name}: {item.text}".removeprefix(": ")
                found.setdefault(f"objective.{key}", item._replace(text=text))
    return found


def field_texts(source: str, owner: str) -> dict[str, str]:
    """Field name -> the sentence under it."""
    return {name: item.text for name, item in declared_fields(source, owner).items()}


def declared_fields(source: str, owner: str) -> dict[str, Field]:
    """The fields of the dataclass `owner` and of its bases in the same file, read from the source."""
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    bases = [base.id for base in classes[owner].bases if isinstance(base, ast.Name) and base.id in classes]
    found = {name: item for base in bases for name, item in declared_fields(source, base).items()}
    for item, text in pairwise(classes[owner].body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(text, ast.Expr):
            sentence = " ".join(ast.literal_eval(text.value).split())
            found[item.target.id] = Field(ast.unparse(item.annotation), sentence)
    return found


def print_help(app: App, name: str, command: Callable) -> None:
    """Print the help of a command with all flags, including those that --help does not list."""

    def complete() -> None: ...

    every = Parameter(show=True)
    signature = inspect.signature(command)
    own = [p.replace(annotation=Annotated[p.annotation, every]) for p in signature.parameters.values()]
    complete.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    complete.__annotations__ = {p.name: p.annotation for p in own}
    complete.__doc__ = command.__doc__
    del app[name]
    app.command(complete, name=name)
    app.help_print([name])


def _flag(key: str, text: str, hint: Any, prefix: bool, group: Group | None, *, show: bool) -> Any:
    """The keyword parameter for a key; None means that the flag was not given."""
    several, (section, _, name) = get_origin(hint) is tuple, key.partition(".")
    settings: dict[str, Any] = {} if group is None else {"group": group}
    parameter = Parameter(
        name=f"--{key}" if prefix else [f"--{name.replace('_', '-')}", *[f"--{key}"] * (section == "data")],
        help=text,
        show=show,
        metavar=_metavar(hint),
        show_default=False,
        allow_leading_hyphen=str in alternatives(hint) or several,  # a prompt may start with a dash
        **settings,
    )
    kind = Annotated[list[str] | None if several else str | None, parameter]
    return inspect.Parameter(key.replace(".", "__"), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _metavar(hint: Any) -> str:
    """The placeholder for a value in the help: its choices or its type."""
    names = {bool: "true|false", int: "INTEGER", float: "NUMBER"}
    kind = alternatives(hint)[0]
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else names.get(kind, "TEXT")
