"""How ids come in: token, segment and position vectors; and how they go out: the vocabulary head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import ACTIVATIONS
from minillm.nn.mask import compute_dtype
from minillm.nn.ngram import NgramEmbedding
from minillm.nn.norm import make_norm
from minillm.nn.position import absolute_position


class InputEmbedding(nn.Module):
    """Token table; n-gram and segment tables, absolute position, norm and dropout as the model has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "build_model checks it"
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.ngrams = NgramEmbedding(config) if config.ngram_order > 1 else None
        self.types = nn.Embedding(config.num_segments, config.d_model) if config.num_segments else None
        self.position = absolute_position(config)
        self.norm = make_norm(config) if config.input_norm else None
        self.scale, self.dropout = config.embed_scale, config.dropout

    def forward(
        self, tokens: Tensor, positions: Tensor, types: Tensor | None = None, *, cache: KVCache | None = None
    ) -> Tensor:
        """Vectors of `tokens` (B, T) at `positions` (T) or (B, T); `types` (B, T) are segment ids, None: all 0.

        `cache` holds the tokens of earlier passes, which n-grams reach back to; these are added to it.

        Returns:
            (B, T, D).

        Raises:
            ValueError: `types` given to a model without segment embeddings.
        """
        x = self.tokens(tokens)  # (B, T, D)
        dtype = compute_dtype(x)
        if self.scale is not None:
            x = x * self.scale
        if self.ngrams is not None:
            x = x + self.ngrams(tokens, positions, None if cache is None else cache.get("tokens"))
            if cache is not None:
                cache.remember("tokens", tokens, before=0)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(tokens) if types is None else types)
        elif types is not None:
            raise ValueError("types are given, but model.num_segments is 0; set it to the number of segment ids")
        if self.position is not None:
            x = x + self.position(positions)
        # Under autocast the residual stream is low precision too: a third of the step would go into casts otherwise.
        x = x.to(dtype)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class LMHead(nn.Module):
    """Hidden states to vocabulary logits: proj(h * scale), bounded by c * tanh(. / c) where a softcap is set.

    Args:
        transform: BERT's head: h goes through norm(act(dense(h))) first, and proj has a bias.
    """

    def __init__(self, config: ModelConfig, *, transform: bool = False) -> None:
        super().__init__()
        assert config.vocab_size is not None, "build_model checks it"
        self.dense = nn.Linear(config.d_model, config.d_model) if transform else None
        self.norm = make_norm(config) if transform else None
        self.activation = ACTIVATIONS[config.activation]
        self.proj = nn.Linear(config.d_model, config.vocab_size, bias=transform)
        self.scale, self.softcap = config.head_scale, config.logit_softcap

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> logits (..., V)."""
        if self.dense is not None and self.norm is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        logits = self.proj(hidden if self.scale is None else hidden * self.scale)
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)


class NoHead(nn.Module):
    """In the place of a vocabulary head: no logits."""

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> (..., 0)."""
        return hidden[..., :0]


def select(hidden: Tensor, predict_at: Tensor | None) -> Tensor:
    """hidden (B, T, D) at predict_at (B, P) -> (B, P, D): run the head only where a prediction is wanted."""
    return hidden if predict_at is None else hidden.take_along_dim(predict_at[..., None], dim=1)
