"""Rounds all linear layers of a model to 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from minillm.nn.kernels.quantized import QuantizedWeight, quantize_int4, quantize_int8


@torch.no_grad()
def round_weights(plain: Mapping[str, Tensor], *, bits: int, group: int = 32) -> dict[str, QuantizedWeight]:
    """Round weights (O, I) to 8 or 4 bits, and replace each by its dequantized values.

    A weight whose rows are no multiple of `group` long is rounded to 8 bits, with one scale for each row.
    """
    found: dict[str, QuantizedWeight] = {}
    for name, weight in plain.items():
        fits = weight.size(1) % group == 0
        four = bits_of(name, bits) == 4 and fits
        found[name] = quantize_int4(weight, group) if four else quantize_int8(weight, group if fits else None)
        weight.copy_(found[name].dequantize())
    return found


def bits_of(name: str, bits: int) -> int:
    """8 for the vocabulary head and a table tied to it, which are the most sensitive; else `bits`."""
    return 8 if name.startswith(("heads.", "embed.")) else bits
