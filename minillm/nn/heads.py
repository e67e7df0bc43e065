"""Output heads: each maps the final hidden states to the logits of one kind of prediction."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import ACTIVATIONS
from minillm.nn.norm import make_norm


class LMHead(nn.Module):
    """Vocabulary logits proj(h * scale); with a softcap c, c * tanh(proj(h * scale) / c).

    With `transform`, as in BERT, norm(act(dense(h))) replaces h first, and proj has a bias.
    """

    def __init__(self, config: ModelConfig, *, transform: bool = False) -> None:
        super().__init__()
        assert config.vocab_size is not None, "build_model checks it"
        self.dense = nn.Linear(config.d_model, config.d_model, bias=config.head_bias) if transform else None
        self.norm = make_norm(config) if transform else None
        self.activation = ACTIVATIONS[config.activation]
        self.proj = nn.Linear(config.d_model, config.vocab_size, bias=transform)
        self.scale, self.softcap = config.head_scale, config.logit_softcap

    def forward(self, hidden: Tensor, predict_at: Tensor | None = None, key_valid: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> logits (B, T, V), or (B, P, V) at the positions predict_at (B, P) only."""
        if predict_at is not None:
            hidden = hidden.take_along_dim(predict_at[..., None], dim=1)  # (B, P, D)
        if self.dense is not None and self.norm is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        logits = self.proj(hidden if self.scale is None else hidden * self.scale)
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)


class PooledHead(nn.Module):
    """Class logits proj(tanh(pooler(h))) of a sequence, h the state of its first token (Devlin et al. 2019, 3.1).

    With num_classes = 0 there is no proj: some encoders are published with the pooler only. The first token is the
    first real one, so padding may be on either side.
    """

    def __init__(self, config: ModelConfig, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.d_model, config.d_model)
        self.proj = nn.Linear(config.d_model, num_classes) if num_classes else nn.Identity()
        self.dropout = dropout

    def forward(self, hidden: Tensor, predict_at: Tensor | None = None, key_valid: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> (B, num_classes), or (B, D) without classes; key_valid (B, T). Ignores `predict_at`."""
        first = hidden[:, 0] if key_valid is None else _at(hidden, key_valid.long().argmax(1))
        pooled = torch.tanh(self.pooler(first))
        return self.proj(F.dropout(pooled, self.dropout, self.training))


class LastTokenHead(nn.Module):
    """Class logits W h of a sequence, h the state of its rightmost real token (Radford et al. 2018, section 3.2)."""

    def __init__(self, config: ModelConfig, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.proj = nn.Linear(config.d_model, num_classes, bias=False)
        self.dropout = dropout

    def forward(self, hidden: Tensor, predict_at: Tensor | None = None, key_valid: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> (B, num_classes); key_valid (B, T) is False for padding. Ignores `predict_at`."""
        last = hidden[:, -1] if key_valid is None else _at(hidden, _last(key_valid))
        return self.proj(F.dropout(last, self.dropout, self.training))


class TokenHead(nn.Module):
    """The same N numbers W h + b for each token: classes of tokens, the start and end of a span, or a value.

    Devlin et al. 2019, sections 5.3 and 4.2, tag words and find answers so; Schulman et al. 2017 estimate values.
    """

    def __init__(self, config: ModelConfig, size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.proj = nn.Linear(config.d_model, size)
        self.dropout = dropout

    def forward(self, hidden: Tensor, predict_at: Tensor | None = None, key_valid: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> (B, T, size). Ignores `predict_at`."""
        return self.proj(F.dropout(hidden, self.dropout, self.training))


class FirstTokenHead(TokenHead):
    """Class logits W h + b of a sequence, h the state of its first token (Dosovitskiy et al. 2020, section 3.1)."""

    def forward(self, hidden: Tensor, predict_at: Tensor | None = None, key_valid: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> (B, size). Rows have no padding. Ignores `predict_at`."""
        return super().forward(hidden[:, :1])[:, 0]


ClassSource = Literal["pooled", "last", "first"]
"""What a class head reads: the first token through a pooler, the last real token, or the first token."""
_CLASS_HEADS: dict[ClassSource, type[nn.Module]] = {
    "pooled": PooledHead,
    "last": LastTokenHead,
    "first": FirstTokenHead,
}


def build_heads(config: ModelConfig, *, transform: bool, class_from: ClassSource) -> nn.ModuleDict:
    """The heads in `config.heads`; `transform` is as in LMHead."""

    sequence = partial(_CLASS_HEADS[class_from], config)
    builders: dict[str, Callable[[int], nn.Module]] = {
        "lm": lambda _: LMHead(config, transform=transform),
        "pair": lambda _: PooledHead(config, 2),
        "pooler": lambda _: PooledHead(config, 0),
        "class": partial(sequence, dropout=config.dropout),
        "tag": partial(TokenHead, config, dropout=config.dropout),
        "span": lambda _: TokenHead(config, 2),
        "value": lambda _: TokenHead(config, 1),
    }
    return nn.ModuleDict({spec.name: builders[spec.name](spec.size) for spec in config.head_specs})


def _at(hidden: Tensor, index: Tensor) -> Tensor:
    """(B, D) the states hidden (B, T, D) at one position of each row, index (B)."""
    return hidden[torch.arange(hidden.size(0), device=hidden.device), index]


def _last(key_valid: Tensor) -> Tensor:
    """(B) the index of the rightmost True of each row of key_valid (B, T)."""
    return key_valid.size(1) - 1 - key_valid.flip(1).long().argmax(1)
