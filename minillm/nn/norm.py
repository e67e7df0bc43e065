"""Normalisation: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019).

Both take their statistics in fp32 and return the dtype of the input, whatever dtype the weights have.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minillm.nn.config import ModelConfig


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        return _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[return-value]


class _RMSNorm(torch.autograd.Function):
    """The same with its gradient worked out; torch's own, on a CPU, is a chain of passes that takes twice the time.

    With r = 1 / sqrt(mean(x^2) + eps):  dx = r * (g * w) - x * r^3 * mean(g * w * x),  dw = sum(g * x * r).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (..., 1)
        factor = torch.rsqrt(size.square() / x.size(-1) + eps)
        ctx.save_for_backward(x, weight, factor)
        return (x * factor.to(x.dtype)).mul_(weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, factor = ctx.saved_tensors
        (gradient,) = gradients
        w, r = weight.to(x.dtype), factor.to(x.dtype)
        product = gradient * x
        of_weight = r.flatten() @ product.reshape(-1, product.size(-1))
        mean = (product @ w)[..., None].float() / x.size(-1)  # (..., 1)
        of_x = torch.mul(gradient, w, out=product).mul_(r)
        of_x.addcmul_(x, (mean * factor**3).to(x.dtype), value=-1)
        return of_x, of_weight.to(weight.dtype), None


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """The norm that `config` names, over a last dimension of `width` (None: d_model)."""
    width = config.d_model if width is None else width
    if config.norm == "rmsnorm":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.norm_bias)
