"""Hashed n-gram embeddings (Pagnoni et al. 2024, Byte Latent Transformer, section 3.2.1).

The embedding of each token includes those of the n-grams of 2 to `ngram_order` tokens that end with it, so attention
need not learn short contexts first. N-grams with the same hash share a row of a table. The tables cost memory but
almost no arithmetic.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.config import ModelConfig

_BASE, _MIX = 1_000_003, 0x1E35A7BD
"""Base of a polynomial rolling hash, and an odd factor that mixes its bits into the high ones; int64 wraps around."""


class NgramEmbedding(nn.Module):
    """Sum over n = 2 .. ngram_order of table_n[hash(the n tokens up to this one) mod ngram_rows]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reach, self.num_rows = config.ngram_order - 1, config.ngram_rows
        self.tables = nn.ModuleList(nn.Embedding(config.ngram_rows, config.d_model) for _ in range(self.reach))

    def forward(self, tokens: Tensor, positions: Tensor, earlier: Tensor | None = None) -> Tensor:
        """(B, T, D) the sum over the n-grams that end at each of `tokens` (B, T), which follow `earlier` (B, S).

        `positions` (T) or (B, T) count the preceding tokens of the document. N-grams include neither padding nor tokens
        of other documents in a packed row.
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
