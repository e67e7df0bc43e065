"""Position-wise feed-forward layer (Vaswani et al. 2017, section 3.3) and its gated variants (Shazeer 2020)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.config import ModelConfig
from minillm.nn.kernels.relu2 import relu2_


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016), as in GPT-2."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "relu2": relu2_,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
"""Name -> function. Functions with a trailing underscore overwrite their argument."""


class FeedForward(nn.Module):
    """down(drop(act(up(x)))), or down(drop(act(gate(x)) * up(x))) if gated."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.ff_width, bias=config.bias) if config.gated else None
        self.up = nn.Linear(config.d_model, config.ff_width, bias=config.bias)
        self.down = nn.Linear(config.ff_width, config.d_model, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.ff_drop

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        hidden = self.up(x)  # (B, T, F)
        hidden = self.activation(hidden) if self.gate is None else self.activation(self.gate(x)) * hidden
        if self.training and self.dropout:
            hidden = F.dropout(hidden, self.dropout)
        return self.down(hidden)  # (B, T, D)
