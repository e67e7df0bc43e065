"""The two kernels of attention: torch's fused one, and equation 1 of Vaswani et al. 2017 as written."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillm.nn.mask import ScoreMask, compute_dtype


def attend(q: Tensor, k: Tensor, v: Tensor, mask: ScoreMask, *, scale: float, dropout: float = 0.0) -> Tensor:
    """Attention of q (B, H, T, K) over k and v (B, G, S, K) -> (B, H, T, K), by the kernel that `mask` names."""
    if mask.kernel == "eager":
        dtype = compute_dtype(q)  # autocast does not see into a Function's backward pass
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        groups = q.size(1) // k.size(1)
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y: Tensor = EagerAttention.apply(q if scale == 1 else q * scale, k, v, mask.tensor, dropout)  # type: ignore[assignment]
    else:
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask.tensor,
            is_causal=mask.is_causal,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=q.size(1) != k.size(1),
        )
    return y if mask.alive is None else y * mask.alive


class EagerAttention(torch.autograd.Function):
    """drop(softmax(q k^T + bias)) v, all in the dtype of q, with the sums of softmax in fp32 inside its kernel.

    Written out so that scores become weights, and gradients of weights those of scores, in the memory where they
    stand: a (B, H, T, S) tensor is the largest of a step, and on a CPU a new one costs more than the product in it.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        """q (B, H, T, K), k and v (B, H, S, K), bias broadcastable to (B, H, T, S) -> (B, H, T, K)."""
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # once, and not anew by each product with them
        scores = q @ k.transpose(-2, -1)  # (B, H, T, S)
        if bias is not None:
            scores += bias
        weights = torch.softmax(scores, dim=-1, out=scores)
        kept = F.dropout(torch.ones_like(weights), dropout) if dropout else None
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.bias_shape = bias.shape if bias is not None and bias.requires_grad else None
        return (weights if kept is None else weights * kept) @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of q, k, v and bias."""
        q, k, v, weights, kept = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        dropped = weights if kept is None else weights * kept
        of_v = dropped.transpose(-2, -1) @ gradient
        of_weights = gradient @ v.transpose(-2, -1)  # (B, H, T, S)
        if kept is not None:
            of_weights *= kept
        of_scores = torch.ops.aten._softmax_backward_data.out(  # what autograd itself calls, in place here
            of_weights, weights, -1, weights.dtype, grad_input=of_weights
        )
        of_bias = None if ctx.bias_shape is None else of_scores.sum_to_size(ctx.bias_shape)
        return of_scores @ k, of_scores.transpose(-2, -1) @ q, of_v, of_bias, None
