"""Reversible tables from Hugging Face's parameter names to ours, and the checks that all model families share.

Each row names one of their parameters, our parameter or parameters, and an operation that has an inverse. Importing
uses every weight of a file or lists it as ignored; exporting writes exactly the weights of the Hugging Face class.
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

    hf: str
    ours: str | tuple[str, ...]
    """Our parameter; several where their tensor is the concatenation of ours along the last dimension."""
    op: Literal["copy", "transpose", "split"] = "copy"
    """transpose: they store the matrix as (in, out). split: several of ours, and matrices are transposed too."""
    tied_to: str | None = None
    """Their parameter that this one is tied to. Files of tied models may leave this one out."""


@dataclass(frozen=True)
class WeightMap:
    """The table of one model family."""

    rows: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    """Regular expressions for entries of their files that are not parameters, such as mask buffers."""

    def expand(self, num_layers: int) -> Iterator[tuple[Rule, tuple[str, ...]]]:
        """Every row with its layer numbers filled in, and our names as a tuple."""
        for row in self.rows:
            ours = (row.ours,) if isinstance(row.ours, str) else row.ours
            for i in range(num_layers if "{i}" in row.hf else 1):
                yield row._replace(hf=row.hf.format(i=i)), tuple(key.format(i=i) for key in ours)

    def file_keys(self, num_layers: int) -> set[str]:
        """Their names in a file: all but the copies of tied weights."""
        return {row.hf for row, _ in self.expand(num_layers) if row.tied_to is None}


def weights_from_hf(weights: Mapping[str, Tensor], rules: WeightMap, num_layers: int) -> dict[str, Tensor]:
    """Our state dict from theirs.

    Raises:
        ValueError: a weight is missing, unknown, or tied here but not in the file; the message names it.
    """
    ours: dict[str, Tensor] = {}
    unknown = {key for key in weights if not any(re.fullmatch(pattern, key) for pattern in rules.ignored)}
    for row, keys in rules.expand(num_layers):
        source = row.hf if row.hf in weights or row.tied_to is None else row.tied_to
        if source not in weights:
            raise ValueError(f"the weights lack {source!r}; is this another family, or a model with fewer layers?")
        if weights[source].ndim not in (1, 2):
            raise ValueError(f"{source!r} has shape {list(weights[source].shape)}; expected a matrix or a vector")
        unknown.discard(row.hf)
        for key, part in zip(keys, _split(weights[source], len(keys), row.op), strict=True):
            if key in ours and not torch.equal(ours[key], part):
                raise ValueError(f"{row.hf!r} differs from another weight of the file, but both are {key!r} here")
            ours[key] = part.contiguous()
    if unknown:
        some = ", ".join(sorted(unknown)[:3])
        raise ValueError(
            f"{len(unknown)} weights have no place here, among them {some}; a model with a head for another task, "
            "such as a classifier, can only be imported without that head"
        )
    return ours


def weights_to_hf(ours: Mapping[str, Tensor], rules: WeightMap, num_layers: int) -> dict[str, Tensor]:
    """Their state dict from ours; the exact inverse of weights_from_hf.

    Raises:
        ValueError: one of our weights is missing, or has no name there.
    """
    weights: dict[str, Tensor] = {}
    unknown = set(ours)
    for row, keys in rules.expand(num_layers):
        for key in keys:
            if key not in ours:
                raise ValueError(f"the model lacks {key!r}, which {row.hf!r} is made from")
            unknown.discard(key)
        weights[row.hf] = _join([ours[key] for key in keys], row.op)
    if unknown:
        some = ", ".join(sorted(unknown)[:3])
        raise ValueError(f"{len(unknown)} of our weights have no Hugging Face name, among them {some}")
    return weights


def _split(weight: Tensor, count: int, op: str) -> Sequence[Tensor]:
    """Their tensor to ours; `t` leaves 1-dimensional biases as they are."""
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
"""Hugging Face's name of each activation and ours; where two of theirs mean one of ours, the first is written."""


def activation_from_hf(config: Mapping[str, Any], key: str) -> Any:
    """Our name of the activation under `key` of their config; ValueError for an activation that is not supported."""
    if config[key] not in _ACTIVATIONS:
        raise ValueError(f"{key} {config[key]!r} is not one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[config[key]]


def activation_to_hf(name: str) -> str:
    """The inverse of `activation_from_hf`."""
    return next(hf for hf, ours in _ACTIVATIONS.items() if ours == name)


class Key(NamedTuple):
    """Our key for one of theirs, and the type of its value."""

    ours: str | None
    """None: ours has no single key for it."""
    kind: type = int


def read_settings(config: Mapping[str, Any], keys: Mapping[str, Key], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Their config with defaults filled in and types checked.

    Args:
        config: the content of a config.json; null means the default.
        keys: the types by their key; float accepts an integer too.
        defaults: values of the keys that a file may lack, as in the Hugging Face class.

    Raises:
        ValueError: a value has another type; the message names the key.
    """
    settings = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    for key, (_, kind) in keys.items():
        value = settings.get(key)
        valid = isinstance(value, (int, float) if kind is float else kind)
        if value is not None and not (valid and (kind is bool or not isinstance(value, bool))):
            raise ValueError(f"{key} is {value!r}; expected {words[kind]}")
    return settings


def values_from_hf(settings: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """Arguments of our config; KeyError for a key that is neither in the file nor among the defaults."""
    return {key.ours: settings[hf] for hf, key in keys.items() if key.ours}


def values_to_hf(config: ModelConfig, keys: Mapping[str, Key]) -> dict[str, Any]:
    """The inverse of `values_from_hf`."""
    derived = {"num_kv_heads": "kv_heads", "head_dim": "head_width", "d_ff": "ff_width"}
    derived |= {"attention_dropout": "attention_drop"}
    return {hf: getattr(config, derived.get(key.ours, key.ours)) for hf, key in keys.items() if key.ours}


def refuse_keys(config: Mapping[str, Any], *keys: str) -> None:
    """ValueError if their config switches on any of these features, none of which is supported here."""
    for key in keys:
        if config.get(key):
            raise ValueError(f"{key} is {config[key]!r} in this {config.get('model_type')} config; it must be off")


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
}
"""Settings that GPT-2 and BERT share, for `require_settings`."""


def require_settings(config: ModelConfig, architecture: str, **required: object) -> None:
    """ValueError listing every setting of `config` that differs from what the Hugging Face class requires."""
    actual = {key: getattr(config, key) for key in required}
    wrong = [
        f"model.{key} is {actual[key]!r} (must be {required[key]!r})"
        for key in required
        if actual[key] != required[key]
    ]
    if wrong:
        raise ValueError(f"{architecture} cannot hold this model: {', '.join(wrong)}")
