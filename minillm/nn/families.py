"""What each model family supports. Does not import torch."""

from __future__ import annotations

from typing import NamedTuple


class HeadSpec(NamedTuple):
    """An output head: its name, and for `class` and `tag` the number of classes."""

    name: str
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> HeadSpec:
        """`lm`, `pair`, `pooler`, `span`, `value`, `class:N` or `tag:N`; ValueError for anything else."""
        name, _, size = text.partition(":")
        if text in ("lm", "pair", "pooler", "span", "value"):
            return cls(name)
        if name in ("class", "tag") and size.isdecimal() and int(size) >= 1:
            return cls(name, int(size))
        raise ValueError(
            f"model.heads has {text!r}; a head is lm, pair, pooler, span, value, class:N or tag:N with N of at least 1"
        )


class FamilySpec(NamedTuple):
    """What a model family supports."""

    heads: tuple[str, ...]
    """Names of its heads."""
    token_types: bool
    """Whether it reads token types."""


FAMILIES = {
    "gpt": FamilySpec(("lm", "class", "tag", "span", "value"), token_types=True),
    "bert": FamilySpec(("lm", "pair", "pooler", "class", "tag", "span"), token_types=True),
    "t5": FamilySpec(("lm",), token_types=False),
}
