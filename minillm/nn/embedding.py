"""From ids to vectors: token, n-gram, token-type and position embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
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
        self.token_types = nn.Embedding(config.num_token_types, config.d_model) if config.num_token_types else None
        self.position = absolute_position(config)
        self.norm = make_norm(config) if config.input_norm else None
        self.scale, self.dropout = config.embed_scale, config.dropout

    def forward(
        self, tokens: Tensor, positions: Tensor, token_types: Tensor | None = None, *, cache: KVCache | None = None
    ) -> Tensor:
        """Vectors of `tokens` (B, T) at `positions` (T) or (B, T); `token_types` (B, T) are segment ids, None: all 0.

        `cache` holds the tokens of earlier passes, which n-grams reach back to; these are added to it.

        Returns:
            (B, T, D).

        Raises:
            ValueError: `token_types` given to a model without segment embeddings.
        """
        x = self.tokens(tokens)  # (B, T, D)
        dtype = compute_dtype(x)
        if self.scale is not None:
            x = x * self.scale
        if self.ngrams is not None:
            x = x + self.ngrams(tokens, positions, None if cache is None else cache.get("tokens"))
            if cache is not None:
                cache.remember("tokens", tokens, before=0)
        if self.token_types is not None:
            x = x + self.token_types(torch.zeros_like(tokens) if token_types is None else token_types)
        elif token_types is not None:
            raise ValueError(
                "token_types are given, but model.num_token_types is 0; set it to the number of segment ids"
            )
        if self.position is not None:
            x = x + self.position(positions)
        # Under autocast the residual stream is low precision too: a third of the step would go into casts otherwise.
        x = x.to(dtype)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x
