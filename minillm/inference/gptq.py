"""GPTQ: rounds a weight to 4 bits so that the outputs change least on given inputs (Frantar et al. 2023).

Column by column, the error of a rounded column is compensated by the columns that are not rounded yet, with the inverse
of H = X^T X (algorithm 1 of the paper). Scales are chosen when the first column of a group is reached. Unlike the
paper, the range of a group is also shrunk if that lowers its squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minillm.nn.block import Stack
from minillm.nn.kernels.quantized import QuantizedWeight, int4_grid, round_int4

DAMPING = 0.01
"""Added to the diagonal of H, as a fraction of its mean."""
BLOCK = 128
"""Columns between two updates of the rest of the weight."""
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Fractions of a group's range that are tried."""


@torch.no_grad()
def gptq_int4(weight: Tensor, hessian: Tensor, group: int) -> QuantizedWeight:
    """Round `weight` (O, I), whose inputs have the second moments `hessian` (I, I), to 4 bits."""
    weight, num_inputs = weight.float().clone(), weight.size(1)
    inverse = _inverse_factor(hessian.float())  # (I, I) upper triangular
    values = torch.empty_like(weight, dtype=torch.uint8)
    scales, zeros = [], []
    for first in range(0, num_inputs, BLOCK):
        last = min(first + BLOCK, num_inputs)
        errors = torch.zeros(weight.size(0), last - first)
        for i in range(first, last):
            if i % group == 0:
                scale, zero = best_grid(weight[:, i : i + group])
                scales.append(scale)
                zeros.append(zero)
            column = weight[:, i]
            values[:, i] = round_int4(column, scales[-1], zeros[-1])
            rounded = (values[:, i].float() - 8) * scales[-1] + zeros[-1]
            errors[:, i - first] = error = (column - rounded) / inverse[i, i]
            weight[:, i:last] -= torch.outer(error, inverse[i, i:last])
        weight[:, last:] -= errors @ inverse[first:last, last:]
    return QuantizedWeight(values, torch.stack(scales, 1), torch.stack(zeros, 1))


def best_grid(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero, both (O), of a group (O, group): the range, shrunk where that lowers the squared error."""
    middle = (weight.amin(-1, keepdim=True) + weight.amax(-1, keepdim=True)) / 2
    grids = [int4_grid(middle + (weight - middle) * shrink) for shrink in SHRINK]
    scales, zeros = (torch.stack(part) for part in zip(*grids, strict=True))  # (tries, O)
    s, z = scales[..., None], zeros[..., None]
    errors = ((round_int4(weight, s, z).float() - 8) * s + z - weight).square().sum(-1)
    best = errors.argmin(0, keepdim=True)
    return scales.gather(0, best)[0], zeros.gather(0, best)[0]


def _inverse_factor(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of a damped H."""
    mean = hessian.diagonal().mean().clamp(min=1e-8)
    hessian = hessian + torch.eye(len(hessian)) * DAMPING * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


@torch.no_grad()
def calibrate(
    model: nn.Module,
    inputs: Iterable[Mapping[str, Tensor]],
    names: Mapping[nn.Linear, str],
    quantize: Callable[[Tensor, Tensor], QuantizedWeight],
) -> dict[str, QuantizedWeight]:
    """Quantize the linear layers of all blocks, one block after another, and replace their weights by the result.

    The inputs of a block are those that the quantized blocks before it produce.

    Args:
        model: in evaluation mode, with fp32 weights.
        inputs: arguments of the model's forward pass, batch by batch.
        names: the layers to quantize and the names of their weights.
        quantize: makes a quantized weight of a weight (O, I) and the second moments (I, I) of its inputs.
    """
    found: dict[str, QuantizedWeight] = {}
    batches = list(inputs)
    for stack in (module for module in model.modules() if isinstance(module, Stack)):
        calls = [_calls(model, stack, batch) for batch in batches]
        states = [blocks[0][0] for blocks in calls]
        for number, block in enumerate(stack.blocks.values()):
            layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear) and layer in names]
            arguments = [blocks[number][1:] for blocks in calls]
            for layer, hessian in _second_moments(block, layers, states, arguments).items():
                weight = quantize(layer.weight, hessian)
                layer.weight.copy_(weight.dequantize())
                found[names[layer]] = weight
            states = [block(x, *more) for x, more in zip(states, arguments, strict=True)]
    return found


def _calls(model: nn.Module, stack: Stack, batch: Mapping[str, Tensor]) -> list[tuple[Any, ...]]:
    """The arguments of each block of a stack in one forward pass."""
    calls: list[tuple[Any, ...]] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, arguments: calls.append(arguments)) for block in stack.blocks.values()
    ]
    try:
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    first, *rest = calls
    return [first, *((None, *call[1:]) for call in rest)]  # only the first block's x is needed


def _second_moments(
    block: nn.Module, layers: list[nn.Linear], states: list[Tensor], arguments: list[tuple[Any, ...]]
) -> dict[nn.Linear, Tensor]:
    """X^T X / N of the inputs of each layer of a block."""
    sums = {layer: torch.zeros(layer.in_features, layer.in_features) for layer in layers}

    def add(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].flatten(0, -2).float()
        assert isinstance(layer, nn.Linear)
        sums[layer].addmm_(x.t(), x, alpha=1 / len(x))

    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        for x, more in zip(states, arguments, strict=True):
            block(x, *more)
    finally:
        for hook in hooks:
            hook.remove()
    return sums
