"""Weights of 8 or 4 bits, and their plain form: W = (q - 8) * scale + zero for 4 bits, W = q * scale for 8.

Each group of consecutive inputs of a row has a scale and, for 4 bits, a zero (Dettmers and Zettlemoyer 2023). With 8
bits, a whole row may be one group. Scales and zeros are bf16 values, because torch's packed products take only those.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

INT8, INT4, SCALE, ZERO = ".int8", ".int4", ".scale", ".zero"
"""Suffixes of the tensors of one weight in a file."""


class QuantizedWeight(NamedTuple):
    """A weight (O, I) of 8 or 4 bits."""

    values: Tensor
    """(O, I) int8 for 8 bits; uint8 from 0 to 15 for 4 bits."""
    scale: Tensor
    """(O, I / group), fp32 with bf16 values."""
    zero: Tensor | None = None
    """(O, I / group) for 4 bits, as `scale`."""

    @property
    def bits(self) -> int:
        """8 or 4."""
        return 8 if self.zero is None else 4

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.values.size(1) // self.scale.size(1)

    def select(self, rows: Tensor | slice) -> QuantizedWeight:
        """The weight of some outputs only."""
        zero = None if self.zero is None else self.zero[rows]
        return QuantizedWeight(self.values[rows], self.scale[rows], zero)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The plain weight (O, I)."""
        return self.write(torch.empty(self.values.shape, dtype=dtype, device=self.values.device))

    def write(self, out: Tensor) -> Tensor:
        """Write the plain weight into `out` (O, I), fp32 or bf16, and return it."""
        # 8-bit values are exact in bf16, so a product with a bf16 scale is rounded once, as if it came from fp32.
        exact = out if out.dtype == torch.float32 or self.zero is None else torch.empty_like(out, dtype=torch.float32)
        groups = exact.unflatten(1, (-1, self.group))  # (O, I / group, group)
        groups.copy_(self.values.unflatten(1, (-1, self.group)))
        if self.zero is None:
            groups.mul_(self.scale[..., None].to(out.dtype))
        else:
            groups.sub_(8).mul_(self.scale[..., None]).add_(self.zero[..., None])
        return out if exact is out else out.copy_(exact)


def quantize_int8(weight: Tensor, group: int | None = None) -> QuantizedWeight:
    """Round a weight (O, I) to the nearest of 255 values. `group` inputs of a row share a scale; None: all do."""
    groups = weight.unflatten(1, (-1, group or weight.size(1)))  # (O, I / group, group)
    scale = as_bf16(groups.abs().amax(-1).clamp(min=1e-8) / 127)
    return QuantizedWeight((groups / scale[..., None]).round().clamp(-127, 127).to(torch.int8).flatten(1), scale)


def int4_grid(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero of groups (..., group), both (...): 16 values from the smallest to the largest weight."""
    low, high = weight.amin(-1), weight.amax(-1)
    scale = as_bf16((high - low).clamp(min=1e-8) / 15)
    return scale, as_bf16(low + 8 * scale)


def round_int4(weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The nearest of the 16 values of each weight, as a number from 0 to 15; all arguments broadcast."""
    return ((weight - zero) / scale + 8).round().clamp(0, 15).to(torch.uint8)


def quantize_int4(weight: Tensor, group: int) -> QuantizedWeight:
    """Round a weight (O, I) to the nearest of 16 values, for each group of a row on its own scale."""
    groups = weight.unflatten(1, (-1, group))
    scale, zero = int4_grid(groups)
    return QuantizedWeight(round_int4(groups, scale[..., None], zero[..., None]).flatten(1), scale, zero)


def concatenate(weights: list[QuantizedWeight]) -> QuantizedWeight:
    """Weights of the same inputs as one; bits and groups must be equal."""
    zeros = [weight.zero for weight in weights if weight.zero is not None]
    return QuantizedWeight(
        torch.cat([weight.values for weight in weights]),
        torch.cat([weight.scale for weight in weights]),
        torch.cat(zeros) if zeros else None,
    )


def to_tensors(name: str, weight: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors of a file; two values of 4 bits share a byte."""
    scale = {name + SCALE: weight.scale.bfloat16()}
    if weight.zero is None:
        return {name + INT8: weight.values} | scale
    pairs = weight.values.unflatten(1, (-1, 2))  # (O, I / 2, 2)
    return {name + INT4: pairs[..., 0] | pairs[..., 1] << 4, name + ZERO: weight.zero.bfloat16()} | scale


def split_quantized(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, QuantizedWeight]]:
    """The plain tensors of a file, and its quantized weights by name."""
    plain, quantized = dict(tensors), {}
    for key in tensors:
        for suffix in (INT8, INT4):
            if not key.endswith(suffix):
                continue
            name, values = key.removesuffix(suffix), plain.pop(key)
            scale = plain.pop(name + SCALE).float()
            if suffix == INT8:
                quantized[name] = QuantizedWeight(values, scale)
            else:
                values = torch.stack((values & 15, values >> 4), -1).flatten(1)
                quantized[name] = QuantizedWeight(values, scale, plain.pop(name + ZERO).float())
    return plain, quantized


def dequantized(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file with every quantized weight in its plain form."""
    plain, quantized = split_quantized(tensors)
    return plain | {name: weight.dequantize() for name, weight in quantized.items()}


def as_bf16(x: Tensor) -> Tensor:
    """x rounded to bf16, in fp32."""
    return x.bfloat16().float()
