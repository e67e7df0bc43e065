"""The products of a model's weights in the form that a plan names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minillm.nn.kernels.linear import DenseProduct, Form, OneRow, Product, QuantizedProduct, can_pack
from minillm.nn.kernels.quantized import QuantizedWeight, concatenate


@dataclass(frozen=True)
class Plan:
    """How products are computed on this machine."""

    form: Form = "plain"
    dtype: torch.dtype = torch.float32
    """Of plain weights."""
    min_rows: int = 1
    """A product of fewer rows is padded to this many."""
    one_row: OneRow = "same"
    """How a single row is multiplied."""
    packed: bool = True
    """Whether quantized weights are multiplied in packed form; else they are dequantized when the model is loaded."""
    draft_cost: float = 0.2
    """Cost of a second row in a step, as a fraction of the step."""

    def describe(self) -> str:
        """Such as `fp32 weights, onednn products`."""
        name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[self.dtype]
        return f"{name} weights, {self.form} products" + (", row sums" if self.one_row == "sum" else "")


class Products:
    """Makes products of a model's linear layers, fused if they read the same input."""

    def __init__(self, plan: Plan, names: Mapping[nn.Linear, str], quantized: Mapping[str, QuantizedWeight]) -> None:
        """`names` of the layers' weights; `quantized` are weights by name, instead of the plain ones."""
        self.plan, self.names, self.quantized = plan, names, quantized

    def of(self, linear: nn.Module) -> Product:
        """The product of one layer."""
        return self.fused((linear,))

    def fused(self, linears: Sequence[nn.Module | None], orders: Sequence[Tensor | None] | None = None) -> Product:
        """One product for several layers, whose results are concatenated.

        `orders` permute the outputs of each head: (K) indices, or None.
        """
        layers = [linear for linear in linears if isinstance(linear, nn.Linear)]
        indices = [rows_of(layer, order) for layer, order in zip(layers, orders or [None] * len(layers), strict=True)]
        bias = None
        if all(layer.bias is not None for layer in layers):  # all of them have one, or none
            bias = torch.cat([layer.bias.detach()[rows] for layer, rows in zip(layers, indices, strict=True)])
        names = [self.names[layer] for layer in layers]
        parts = [self.quantized[name] for name in names if name in self.quantized]
        if parts and len(parts) == len(layers) and self.plan.packed:
            parts = [part.select(rows) for part, rows in zip(parts, indices, strict=True)]
            whole = concatenate(parts)
            if can_pack(whole):
                return QuantizedProduct(whole, bias, wide=self.plan.dtype, one_row=self.plan.one_row, parts=parts)
        weight = torch.cat([layer.weight.detach()[rows] for layer, rows in zip(layers, indices, strict=True)])
        return dense(weight, bias, self.plan)


def dense(weight: Tensor, bias: Tensor | None, plan: Plan) -> DenseProduct:
    """The product of a plain weight (O, I) and bias (O) in the form of the plan."""
    return DenseProduct(weight, bias, form=plan.form, dtype=plan.dtype, min_rows=plan.min_rows, one_row=plan.one_row)


def rows_of(layer: nn.Linear, order: Tensor | None) -> Tensor | slice:
    """Rows of the weight in the order of each head's outputs."""
    if order is None:
        return slice(None)
    return torch.arange(layer.out_features).view(-1, len(order))[:, order].flatten()
