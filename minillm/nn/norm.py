"""Normalization: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019).

Both compute their statistics in fp32, or fp64 for fp64 input, and return the dtype of the input.
"""

import torch
from torch import Tensor, nn

from minillm.nn.config import ModelConfig
from minillm.nn.kernels.rms_norm import rms_norm


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The definition of RMSNorm; nn/kernels/rms_norm.py computes it faster."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        return rms_norm(x, self.weight, self.eps)  # type: ignore[arg-type]


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """The norm that `config` names, over a last dimension of size `width`; None: d_model."""
    width = config.d_model if width is None else width
    if config.norm == "rmsnorm":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.norm_bias)
