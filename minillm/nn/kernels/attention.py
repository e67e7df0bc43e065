"""A faster `plain_attention` (nn/attention.py): softmax(q k^T * scale + mask) v.

`test_every_kernel_equals_plain_attention` in tests/nn/test_attention.py compares values and gradients.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillm.nn.mask import ScoreMask, compute_dtype


def attend(q: Tensor, k: Tensor, v: Tensor, mask: ScoreMask, *, scale: float, dropout: float = 0.0) -> Tensor:
    """Attention of q (B, H, T, K) over k and v (B, G, S, K) -> (B, H, T, K), with the kernel that `mask` names."""
    if mask.kernel == "eager":
        dtype = compute_dtype(q)  # autocast does not reach the backward pass of an autograd.Function
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        groups = q.size(1) // k.size(1)
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y: Tensor = EagerAttention.apply(q if scale == 1 else q * scale, k, v, mask.tensor, dropout)  # type: ignore[assignment]
    else:
        gqa = q.size(1) != k.size(1)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask.tensor, is_causal=mask.is_causal, dropout_p=dropout, scale=scale, enable_gqa=gqa
        )
    return y if mask.has_keys is None else y * mask.has_keys


class EagerAttention(torch.autograd.Function):
    """drop(softmax(q k^T + bias)) v in the dtype of q; torch's softmax kernel sums in fp32.

    Weights overwrite the scores, and the gradient of the scores overwrites that of the weights. These (B, H, T, S)
    tensors are the largest of a training step; on a CPU, allocating one takes longer than the matrix product.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        """q (B, H, T, K), k and v (B, H, S, K), bias broadcastable to (B, H, T, S) -> (B, H, T, K)."""
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # otherwise each matrix product copies them
        scores = q @ k.transpose(-2, -1)  # (B, H, T, S)
        if bias is not None:
            scores += bias
        weights = torch.softmax(scores, dim=-1, out=scores)
        keep = F.dropout(torch.ones_like(weights), dropout) if dropout else None
        ctx.save_for_backward(q, k, v, weights, keep)
        ctx.bias_shape = bias.shape if bias is not None and bias.requires_grad else None
        return (weights if keep is None else weights * keep) @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and bias."""
        q, k, v, weights, keep = ctx.saved_tensors
        grad_y = grads[0].contiguous()
        dropped = weights if keep is None else weights * keep
        grad_v = dropped.transpose(-2, -1) @ grad_y
        grad_weights = grad_y @ v.transpose(-2, -1)  # (B, H, T, S)
        if keep is not None:
            grad_weights *= keep
        grad_scores = torch.ops.aten._softmax_backward_data.out(  # autograd's own softmax gradient, in place
            grad_weights, weights, -1, weights.dtype, grad_input=grad_weights
        )
        grad_bias = None if ctx.bias_shape is None else grad_scores.sum_to_size(ctx.bias_shape)
        return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, grad_v, grad_bias, None
