"""Weight maps: invertible tables from Hugging Face's parameter names to ours.

Importing uses every weight of a file unless it is listed as ignored; exporting writes exactly the weights of the
Hugging Face class.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Rule(NamedTuple):
    """One row. `{i}` in the names is the layer number."""

    hf: str
    ours: str | tuple[str, ...]
    """Our parameter, or several if their tensor is the concatenation of ours."""
    op: Literal["copy", "transpose", "split", "stack"] = "copy"
    """transpose: their matrix is (in, out). split: several of ours, transposed and concatenated along the last
    dimension. stack: several of ours, concatenated along the first one."""
    tied_to: str | None = None
    """Their parameter that this one is tied to. A file may then omit this one."""


@dataclass(frozen=True)
class WeightMap:
    rows: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    """Regular expressions for entries of their files that are not parameters, such as mask buffers."""

    def expand(self, num_layers: int) -> Iterator[tuple[Rule, tuple[str, ...]]]:
        """Every row for every layer, and our names as a tuple."""
        for row in self.rows:
            ours = (row.ours,) if isinstance(row.ours, str) else row.ours
            for i in range(num_layers if "{i}" in row.hf else 1):
                yield row._replace(hf=row.hf.format(i=i)), tuple(key.format(i=i) for key in ours)

    def renamed(self, names: Mapping[str, str]) -> "WeightMap":
        """This table with other names of theirs: the beginnings of names, the longest first."""

        def change(name: str) -> str:
            old = next((old for old in sorted(names, key=len, reverse=True) if name.startswith(old)), "")
            return names.get(old, "") + name.removeprefix(old)

        rows = [row._replace(hf=change(row.hf), tied_to=row.tied_to and change(row.tied_to)) for row in self.rows]
        return WeightMap(tuple(rows), self.ignored)

    def file_keys(self, num_layers: int) -> set[str]:
        """Their names in a file, without the copies of tied weights."""
        return {row.hf for row, _ in self.expand(num_layers) if row.tied_to is None}


def weights_from_hf(weights: Mapping[str, Tensor], rules: WeightMap, num_layers: int) -> dict[str, Tensor]:
    """Our state dict from theirs; ValueError for a weight that is missing, unknown, or tied only in our model."""
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
            f"{len(unknown)} weights cannot be imported, such as {some}; a model with a head for another task, "
            "such as a classifier, can only be imported without that head"
        )
    return ours


def weights_to_hf(ours: Mapping[str, Tensor], rules: WeightMap, num_layers: int) -> dict[str, Tensor]:
    """Their state dict from ours; ValueError if a weight is missing or has no Hugging Face name."""
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
    """Our tensors from theirs; `t` leaves biases, which have one dimension, unchanged."""
    parts = weight.chunk(count, dim=0 if op == "stack" else -1)
    return parts if op in ("copy", "stack") else [part.t() for part in parts]


def _join(parts: list[Tensor], op: str) -> Tensor:
    if op not in ("copy", "stack"):
        parts = [part.t() for part in parts]
    return torch.cat(parts, dim=0 if op == "stack" else -1).contiguous()
