"""Reversible tables between foreign parameter names and ours.

Each row names one foreign key, our key or keys, and an operation that has an inverse. Import consumes every foreign key
or names it as ignored; export yields exactly the foreign set. Nothing is ever loaded in part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from minillm.nn.config import ModelConfig


class Rule(NamedTuple):
    """One row. `{i}` in the names stands for the layer number."""

    foreign: str
    ours: str | tuple[str, ...]
    """Our key; several where the foreign tensor holds them side by side along its last dimension."""
    op: Literal["copy", "transpose", "split"] = "copy"
    """transpose: matrices are stored (in, out) over there. split: several of ours, matrices transposed too."""
    tied_to: str | None = None
    """Foreign key that this one equals and may be left out for, as files of tied models do."""


@dataclass(frozen=True)
class WeightMap:
    """The whole table of one family."""

    rows: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    """Regular expressions of foreign keys that hold no parameter, such as mask buffers."""

    def expand(self, num_layers: int) -> Iterator[tuple[Rule, tuple[str, ...]]]:
        """Every row with its layer numbers filled in, and our keys as a tuple."""
        for row in self.rows:
            ours = (row.ours,) if isinstance(row.ours, str) else row.ours
            for i in range(num_layers if "{i}" in row.foreign else 1):
                yield row._replace(foreign=row.foreign.format(i=i)), tuple(key.format(i=i) for key in ours)

    def file_keys(self, num_layers: int) -> set[str]:
        """The foreign keys that a file holds: all but the copies of tied ones."""
        return {row.foreign for row, _ in self.expand(num_layers) if row.tied_to is None}


def import_weights(foreign: Mapping[str, Tensor], rules: WeightMap, num_layers: int) -> dict[str, Tensor]:
    """Our state dict from a foreign one.

    Raises:
        ValueError: a key is missing, left over, or tied here but not there; the message names the first of them.
    """
    ours: dict[str, Tensor] = {}
    left = {key for key in foreign if not any(re.fullmatch(pattern, key) for pattern in rules.ignored)}
    for row, keys in rules.expand(num_layers):
        source = row.foreign if row.foreign in foreign or row.tied_to is None else row.tied_to
        if source not in foreign:
            raise ValueError(f"the weights lack {source!r}; is this another family, or a model of fewer layers?")
        if foreign[source].ndim not in (1, 2):
            raise ValueError(f"{source!r} has shape {list(foreign[source].shape)}; a matrix or a vector is expected")
        left.discard(row.foreign)
        for key, part in zip(keys, _split(foreign[source], len(keys), row.op), strict=True):
            if key in ours and not torch.equal(ours[key], part):
                raise ValueError(f"{row.foreign!r} differs from another foreign weight, and both are {key!r} here")
            ours[key] = part.contiguous()
    if left:
        some = ", ".join(sorted(left)[:3])
        raise ValueError(
            f"{len(left)} foreign weights have no place here, among them {some}; a model with a head for another task, "
            "such as a classifier's, can only be imported without it"
        )
    return ours


def export_weights(ours: Mapping[str, Tensor], rules: WeightMap, num_layers: int) -> dict[str, Tensor]:
    """The foreign state dict, exactly its keys; the inverse of import_weights, bit for bit.

    Raises:
        ValueError: one of our keys is missing, or has no foreign name.
    """
    foreign: dict[str, Tensor] = {}
    left = set(ours)
    for row, keys in rules.expand(num_layers):
        for key in keys:
            if key not in ours:
                raise ValueError(f"the model lacks {key!r}, which {row.foreign!r} is made of")
            left.discard(key)
        foreign[row.foreign] = _join([ours[key] for key in keys], row.op)
    if left:
        some = ", ".join(sorted(left)[:3])
        raise ValueError(f"{len(left)} of our weights have no foreign name, among them {some}")
    return foreign


def _split(weight: Tensor, count: int, op: str) -> Sequence[Tensor]:
    """Foreign tensor to ours; `t` leaves 1-dimensional biases as they are."""
    parts = weight.chunk(count, dim=-1)
    return parts if op == "copy" else [part.t() for part in parts]


def _join(parts: list[Tensor], op: str) -> Tensor:
    """The inverse of _split."""
    if op != "copy":
        parts = [part.t() for part in parts]
    return torch.cat(parts, dim=-1).contiguous()


_ACTIVATIONS = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
"""Hugging Face's name of each activation and ours; of two names the first is written."""


def activation_of(foreign: Mapping[str, Any], key: str) -> Any:
    """Our name of the activation in a foreign config; ValueError for one that these models do not have."""
    if foreign[key] not in _ACTIVATIONS:
        raise ValueError(f"{key} {foreign[key]!r} is not one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[foreign[key]]


def foreign_activation(name: str) -> str:
    """The inverse of `activation_of`."""
    return next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == name)


def read_settings(
    foreign: Mapping[str, Any], kinds: Mapping[type, Sequence[str]], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """A foreign config with its defaults filled in, its nulls left out and its types checked.

    Args:
        foreign: the content of a config.json.
        kinds: keys that must be of a type: int, float (an integer will do), bool or str.
        defaults: values of keys that a file may lack, as the foreign class has them.

    Raises:
        ValueError: a value of another type; the message names the key.
    """
    found = {key: value for key, value in {**defaults, **foreign}.items() if value is not None}
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    for kind, keys in kinds.items():
        for key in keys:
            value = found.get(key)
            right = isinstance(value, (int, float) if kind is float else kind)
            if value is not None and not (right and (kind is bool or not isinstance(value, bool))):
                raise ValueError(f"{key} is {value!r}; {words[kind]} is expected")
    return found


def refuse_keys(foreign: Mapping[str, Any], *keys: str) -> None:
    """ValueError for the first of these keys that a foreign config sets: these models have no such arithmetic."""
    for key in keys:
        if foreign.get(key):
            raise ValueError(f"{key} is {foreign[key]!r} in this {foreign.get('model_type')} config; it must be off")


CLASSIC_PARTS: dict[str, object] = {
    "norm": "layernorm",
    "norm_bias": True,
    "gated": False,
    "position": "learned",
    "qk_norm": False,
    "bias": True,
    "biased_projections": "all",
    "embed_scale": None,
    "head_scale": None,
    "logit_softcap": None,
    "ngram_order": 1,
}
"""What GPT-2 and BERT have in common, for `require_parts`."""


def require_parts(config: ModelConfig, holder: str, **wanted: object) -> None:
    """ValueError that names the first key of `config` that is not as the foreign class `holder` has it."""
    for key, value in wanted.items():
        own = getattr(config, key)
        if own != value:
            raise ValueError(f"model.{key} is {own!r}; {holder} has {value!r} only")
