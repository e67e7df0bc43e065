"""Normalisation: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019).

Both take their statistics in fp32 and return the dtype of the input, whatever dtype the weights have.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.config import ModelConfig


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        weight = self.weight.to(x.dtype)
        if x.is_cuda or not torch.is_grad_enabled():
            return F.rms_norm(x, self.normalized_shape, weight, self.eps)
        # torch has no fused backward on CPU; this form takes about half the time of its composite one.
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (..., 1)
        factor = torch.rsqrt(size.square() / x.size(-1) + self.eps)
        return x * factor.to(x.dtype) * weight


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """The norm that `config` names, over a last dimension of `width` (None: d_model)."""
    width = config.d_model if width is None else width
    if config.norm == "rmsnorm":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.norm_bias)
