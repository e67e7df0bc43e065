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
    features: bool = False
    """Whether it reads features of a fixed shape, such as pixels, instead of tokens."""
    reads: tuple[str, ...] = ()
    """Keys of [model] that it reads; empty: all but `ignores`."""
    ignores: tuple[str, ...] = ()
    """Keys of [model] that it does not read."""


_VOCABULARY = ("vocab_size", "max_seq_len", "num_token_types", "input_norm", "embed_scale", "tie_embeddings")
_VOCABULARY += ("head_scale", "logit_softcap", "ngram_order", "ngram_rows")
_LAYERS = ("preset", "family", "input_shape", "hidden_sizes", "activation", "bias", "dropout")
_LAYERS += ("heads", "init", "init_std")
FAMILIES = {
    "gpt": FamilySpec(("lm", "class", "tag", "span", "value"), token_types=True),
    "bert": FamilySpec(("lm", "pair", "pooler", "class", "tag", "span"), token_types=True),
    "t5": FamilySpec(("lm",), token_types=False),
    "vit": FamilySpec(("class", "value"), token_types=False, features=True, ignores=_VOCABULARY),
    "mlp": FamilySpec(("class", "value"), token_types=False, features=True, reads=_LAYERS),
}


def check_family(name: str, heads: tuple[str, ...], num_token_types: int) -> None:
    """ValueError for settings that the family does not support."""
    family, names = FAMILIES[name], [HeadSpec.parse(head).name for head in heads]
    if not set(names) <= set(family.heads):
        raise ValueError(f"model.heads is {list(heads)}; a {name} model has {list(family.heads)} only")
    if len(set(names)) < len(names):
        raise ValueError(f"model.heads is {list(heads)}; it names a head twice")
    if num_token_types and not family.token_types:
        raise ValueError(
            f"model.num_token_types is {num_token_types}, but a {name} model reads no token types: set it to 0"
        )


def why_unread(key: str, name: str) -> str | None:
    """Why setting `key` of [model] has no effect in the family `name`; None if it has."""
    family = FAMILIES[name]
    if key in family.ignores or (family.reads and key not in family.reads):
        return f"model.{key} has no effect with model.family {name}; leave it out"
    return None
