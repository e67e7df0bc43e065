"""Hashed n-gram embeddings: a token's vector also says which tokens came right before it.

Pagnoni et al. 2024 (Byte Latent Transformer, section 3.2.1) add to each byte the embeddings of the n-grams that end
there, looked up by their hash, so that short contexts need not be learned by attention first. Here they are n-grams of
tokens, of 2 up to `ngram_order`; a table costs memory and no arithmetic. Hashes that collide share a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.config import ModelConfig

_BASE, _MIX = 1_000_003, 0x1E35A7BD
"""A polynomial rolling hash, and an odd number that spreads it over the high bits; int64 wraps around."""


class NgramEmbedding(nn.Module):
    """Sum over n = 2 .. ngram_order of table_n[hash(the n tokens up to this one) mod ngram_rows]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reach, self.num_rows = config.ngram_order - 1, config.ngram_rows
        self.tables = nn.ModuleList(nn.Embedding(config.ngram_rows, config.d_model) for _ in range(self.reach))

    def forward(self, tokens: Tensor, positions: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Vectors of the n-grams that end at each token.

        Args:
            tokens: (B, T) ids.
            positions: (T) or (B, T): a token at position p has p tokens of its document before it. What would lie
                before the document (padding, another document of a packed row) is left out of the n-gram.
            earlier: (B, S) tokens before these, of earlier passes; None: there are none.

        Returns:
            (B, T, D).
        """
        num_tokens = tokens.size(1)
        text = tokens if earlier is None else torch.cat((earlier[:, -self.reach :], tokens), 1)
        text = F.pad(text, (self.reach + num_tokens - text.size(1), 0))  # (B, reach + T)
        hashed, total = tokens + 1, torch.zeros((), device=tokens.device)
        for n, table in enumerate(self.tables, 1):
            previous = text[:, self.reach - n : self.reach - n + num_tokens]
            hashed = hashed * _BASE + torch.where(positions >= n, previous + 1, 0)  # (B, T)
            total = total + table((hashed * _MIX >> 16) % self.num_rows)  # (B, T, D)
        return total
