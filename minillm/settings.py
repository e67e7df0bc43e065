"""Fields of config dataclasses, and conversion of values to their types.

A field declares its default, its range, and the settings that it depends on:

    muon_lr: float = setting(0.02, above=0, only={"name": ("muon",)})
"""

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from math import isfinite
from numbers import Integral, Real
from operator import ge, gt, le, lt
from pathlib import PurePath
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

Only = Mapping[str, "tuple[object, ...] | Bounds"]
"""Another key of the same section -> the values, or the range, for which the field is used."""


class Bounds(NamedTuple):
    """A range of numbers; None: no bound on that side."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def allow(self, value: object) -> bool:
        """Whether `value` is a number in the range; without bounds, everything is allowed."""
        tests = zip(self, (ge, gt, le, lt), strict=True)
        return all(isinstance(value, int | float) and test(value, bound) for bound, test in tests if bound is not None)

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least} to {self.at_most}"
        return " and ".join(f"{name.replace('_', ' ')} {x}" for name, x in self._asdict().items() if x is not None)


def setting(
    default: Any, *, note: str = "", only: Only | None = None, datasets: tuple[str, ...] = (), **bounds: float
) -> Any:
    """A dataclass field with its range.

    Args:
        note: the meaning of a special value, for the error message about the range.
        only: settings that the field depends on; with others, setting it is an error.
        datasets: kinds of data set that use the field; empty: all.
        bounds: arguments of `Bounds`; None is allowed in addition if the type allows it.
    """
    metadata = {"bounds": Bounds(**bounds), "note": note, "only": only or {}, "datasets": datasets}
    return dataclasses.field(default=default, metadata=metadata)


def check(section: str, config: Any) -> None:
    """Convert every field of a new config to its type; ValueError for a wrong type or a number out of range."""
    for item in dataclasses.fields(config):
        value, hint = getattr(config, item.name), hints(type(config))[item.name]
        try:
            read = convert(value, hint)
        except ValueError as error:
            raise ValueError(f"{section}.{item.name} is {shown(value)}; it must be {error}") from None
        bounds = item.metadata.get("bounds", Bounds())
        if read is not None and not bounds.allow(read):
            note = f" ({item.metadata['note']})" if item.metadata["note"] else ""
            none = ", or none" if NoneType in alternatives(hint) else ""
            raise ValueError(f"{section}.{item.name} is {shown(value)}; it must be {bounds}{note}{none}")
        object.__setattr__(config, item.name, read)  # called from __post_init__ of a frozen dataclass


def unread(key: str, owner: type, values: Mapping[str, object]) -> str | None:
    """Why the dotted `key` of the config class `owner` has no effect with these values; None if it has."""
    section, _, name = key.partition(".")
    for other, wanted in owner.__dataclass_fields__[name].metadata.get("only", {}).items():
        value = values[f"{section}.{other}"]
        with suppress(ValueError):
            value = convert(value, hints(owner)[other])
        if wanted.allow(value) if isinstance(wanted, Bounds) else value in wanted:
            continue
        remedy = str(wanted) if isinstance(wanted, Bounds) else " or ".join(map(typed, wanted))
        other = f"{section}.{other}"
        return f"{key} has no effect with {other} {typed(value)}; leave it out, or set {other} to {remedy}"
    return None


def convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`; "none" becomes None if allowed, a path becomes text. ValueError lists the types."""
    allowed = alternatives(hint)
    if NoneType in allowed and (value is None or (isinstance(value, str) and value == "none")):
        return None
    for kind in allowed:
        if _fits(value, kind):
            if get_origin(kind) is tuple:
                return tuple(map(get_args(kind)[0], value))
            return value if get_origin(kind) else kind(value)
    raise ValueError(described(hint))


def parse(text: Any, hint: Any) -> object:
    """The text of a flag as a number or bool if its type is one and the text is valid; else the text.

    A list of texts becomes a list of numbers if its type is one.
    """
    allowed = alternatives(hint)
    if isinstance(text, list):
        return [parse(part, get_args(allowed[0])[0]) for part in text] if get_origin(allowed[0]) is tuple else text
    if bool in allowed:
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float):
        if kind in allowed:
            with suppress(ValueError):
                return kind(text)
            break
    return text


@cache
def hints(owner: type) -> dict[str, Any]:
    """Field -> its type."""
    return get_type_hints(owner)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) not in (Literal, tuple, None) else (hint,)


def described(hint: Any) -> str:
    """A type in words, for error messages."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", NoneType: "none"}
    lists = {str: "a list of strings, none of them empty", int: "a list of integers", float: "a list of numbers"}
    return " or ".join(
        "one of " + ", ".join(get_args(kind))
        if get_origin(kind) is Literal
        else names.get(kind) or lists[get_args(kind)[0]]
        for kind in alternatives(hint)
    )


def shown(value: object) -> str:
    """The value on one short line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def typed(value: object) -> str:
    """The value as one would type it on the command line."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) and value.strip() else repr(value)


def _fits(value: Any, kind: Any) -> bool:
    """Whether the value has the type `kind` or converts to it without loss."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if not isinstance(value, list | tuple):
            return False
        return all(map(_is_text, value)) and all(value) if item is str else all(_fits(part, item) for part in value)
    if kind is str:
        return isinstance(value, str | PurePath) and _is_text(str(value))
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral)  # NumPy's integers too
    try:
        return kind is float and isinstance(value, Real) and isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can encode, unlike a command-line argument with invalid bytes."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode("utf-8") == value
