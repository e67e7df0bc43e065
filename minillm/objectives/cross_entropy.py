"""Cross-entropy that keeps nothing but the logits as they came.

In bf16 and fp16 the fp32 form of the logits, its log-softmax and the gradient of both are several times the logits'
own size, and on a CPU they cost more in memory traffic than in arithmetic. Here blocks of rows that fit the caches are
widened to fp32, used and forgotten; the backward pass computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
"""Label of a position that carries no target; masks are made from lengths, never from token ids."""

BLOCK = 1 << 19
"""Logits in a block on a CPU: two megabytes of fp32. Other devices take all rows at once."""


class CrossEntropySum(torch.autograd.Function):
    """Sum over the targets of -log p(label), with label smoothing and z-loss; `objectives.base` says what they are."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, label_smoothing: float, z_loss: float) -> Tensor:
        """logits (N, V) of any floating dtype, labels (N) -> (), fp32."""
        log_z = torch.empty(len(labels), dtype=torch.float32, device=logits.device)  # (N)
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for rows in _blocks(logits):
            x = logits[rows].float()
            own = log_z[rows] = x.logsumexp(-1)
            loss = own - x.gather(-1, labels[rows].clamp(min=0)[:, None])[:, 0]
            if label_smoothing:
                loss = (1 - label_smoothing) * loss + label_smoothing * (own - x.mean(-1))
            if z_loss:
                loss = loss + z_loss * own.square()
            total += loss.masked_fill(labels[rows] == IGNORE_INDEX, 0.0).sum()
        ctx.save_for_backward(logits, labels, log_z)
        ctx.label_smoothing, ctx.z_loss = label_smoothing, z_loss
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """softmax - onehot, in fp32, then in the dtype of the logits; zero where there is no target."""
        logits, labels, log_z = ctx.saved_tensors
        found = torch.empty_like(logits)
        for rows in _blocks(logits):
            own, weight = log_z[rows, None], (labels[rows, None] != IGNORE_INDEX) * gradients[0]  # (n, 1)
            slope = torch.sub(logits[rows], own).exp_()  # fp32, as own is
            if ctx.z_loss:
                slope *= 1 + 2 * ctx.z_loss * own
            if ctx.label_smoothing:
                slope -= ctx.label_smoothing / logits.size(-1)
            slope *= weight
            slope.scatter_add_(-1, labels[rows, None].clamp(min=0), (ctx.label_smoothing - 1) * weight)
            found[rows] = slope
        return found, None, None, None


def _blocks(logits: Tensor) -> list[slice]:
    """Ranges of rows of logits (N, V)."""
    step = len(logits) if logits.device.type != "cpu" else max(1, BLOCK // logits.size(-1))
    return [slice(first, first + step) for first in range(0, len(logits), max(1, step))]
