"""`cross_entropy_sum` computes `plain_cross_entropy_sum` in less memory.

`test_cross_entropy_in_blocks_equals_its_plain_form` in tests/objectives/test_base.py compares values and gradients.

The fp32 copy of low-precision logits, its log-softmax and their gradients are several times the size of the logits. On
a CPU, moving them costs more than the arithmetic. This kernel processes blocks of rows that fit the caches and saves
only the logits; the backward pass computes the fp32 values again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
"""Label of a position without a target."""

BLOCK = 1 << 19
"""Logits in one block on a CPU, two megabytes in fp32. Other devices process all rows at once."""


def cross_entropy_sum(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Sum over the targets of -log p(label), in nats, fp32, for logits (..., V) of any floating dtype.

    `labels` (...) are IGNORE_INDEX where there is no target. `label_smoothing` is the probability mass spread evenly
    over the vocabulary, `z_loss` the weight of log(Z)^2, added for each target.

    torch.compile fuses the plain form into as few passes over the logits on its own.
    """
    if torch.compiler.is_compiling():
        return plain_cross_entropy_sum(logits, labels, label_smoothing=label_smoothing, z_loss=z_loss)
    return CrossEntropySum.apply(logits.flatten(0, -2), labels.flatten(), label_smoothing, z_loss)  # type: ignore[return-value]


def plain_cross_entropy_sum(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """The definition of `cross_entropy_sum`."""
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    log_z = logits.logsumexp(-1)  # log p(v) = logits_v - log_z
    of_label = log_z - logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    of_uniform = log_z - logits.mean(-1)
    loss = (1 - label_smoothing) * of_label + label_smoothing * of_uniform + z_loss * log_z.square()
    return loss.masked_fill(labels == IGNORE_INDEX, 0.0).sum()


class CrossEntropySum(torch.autograd.Function):
    """The sum and its gradient, softmax(logits) - onehot(label), block by block."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, label_smoothing: float, z_loss: float) -> Tensor:
        """logits (N, V) of any floating dtype, labels (N) -> (), fp32."""
        log_z = torch.empty(len(labels), dtype=torch.float32, device=logits.device)  # (N)
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for rows in _blocks(logits):
            x = logits[rows].float()
            log_z[rows] = block_log_z = x.logsumexp(-1)
            loss = block_log_z - x.gather(-1, labels[rows].clamp(min=0)[:, None])[:, 0]
            if label_smoothing:
                loss = (1 - label_smoothing) * loss + label_smoothing * (block_log_z - x.mean(-1))
            if z_loss:
                loss = loss + z_loss * block_log_z.square()
            total += loss.masked_fill(labels[rows] == IGNORE_INDEX, 0.0).sum()
        ctx.save_for_backward(logits, labels, log_z)
        ctx.label_smoothing, ctx.z_loss = label_smoothing, z_loss
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Computed in fp32, returned in the dtype of the logits; zero where there is no target."""
        logits, labels, log_z = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        for rows in _blocks(logits):
            block_log_z, weight = log_z[rows, None], (labels[rows, None] != IGNORE_INDEX) * grads[0]  # (n, 1)
            grad = torch.sub(logits[rows], block_log_z).exp_()  # fp32, because block_log_z is
            if ctx.z_loss:
                grad *= 1 + 2 * ctx.z_loss * block_log_z
            if ctx.label_smoothing:
                grad -= ctx.label_smoothing / logits.size(-1)
            grad *= weight
            grad.scatter_add_(-1, labels[rows, None].clamp(min=0), (ctx.label_smoothing - 1) * weight)
            grad_logits[rows] = grad
        return grad_logits, None, None, None


def _blocks(logits: Tensor) -> list[slice]:
    """Slices that split the rows of logits (N, V) into blocks."""
    step = len(logits) if logits.device.type != "cpu" else max(1, BLOCK // logits.size(-1))
    return [slice(first, first + step) for first in range(0, len(logits), max(1, step))]
