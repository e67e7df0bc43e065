"""The input embedding: the sum of token, n-gram, token type and absolute position embeddings, or that of patches.

Absolute positions are learned (Radford et al. 2018) or sinusoidal (Vaswani et al. 2017).
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.mask import compute_dtype
from minillm.nn.ngram import NgramEmbedding
from minillm.nn.norm import make_norm
from minillm.nn.position import rotary_frequencies


class LearnedPosition(nn.Module):
    """A trained vector for each position."""

    def __init__(self, max_seq_len: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_seq_len, d_model)

    def forward(self, positions: Tensor) -> Tensor:
        """positions (T) or (B, T) -> (T, D) or (B, T, D)."""
        return self.table(positions)


class SinusoidalPosition(nn.Module):
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D)) (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, positions: Tensor) -> Tensor:
        """positions (T) or (B, T) -> (T, D) or (B, T, D), fp32."""
        frequencies = rotary_frequencies(self.d_model, 10000.0, positions.device)
        angle = positions[..., None] * frequencies  # (..., T, ceil(D/2))
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[..., : self.d_model]


def absolute_position(config: ModelConfig) -> nn.Module | None:
    """The absolute scheme that `config` names, if any."""
    if config.position == "learned":
        return LearnedPosition(config.max_seq_len, config.d_model)
    return SinusoidalPosition(config.d_model) if config.position == "sinusoidal" else None


class PatchEmbedding(nn.Module):
    """drop([class; patches W] + positions): a trained vector, then the projected patches of an image
    (Dosovitskiy et al. 2020, equation 1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.side, sides = config.patch_size, config.input_shape[1:]
        if len(sides) != 2 or any(side % self.side for side in sides):
            raise ValueError(
                f"model.input_shape is {list(config.input_shape)}; a vit reads channels, height and width, the last "
                f"two divisible by model.patch_size {self.side}"
            )
        num_patches = sides[0] // self.side * (sides[1] // self.side)
        self.class_token = nn.Embedding(1, config.d_model)
        self.proj = nn.Linear(config.input_shape[0] * self.side**2, config.d_model)
        self.position = absolute_position(replace(config, max_seq_len=1 + num_patches))
        self.dropout = config.dropout

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, height, width) -> (B, 1 + patches, D), patches row by row."""
        patches = images.unfold(2, self.side, self.side).unfold(3, self.side, self.side)  # (B, C, rows, columns, p, p)
        x = self.proj(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))  # (B, patches, D)
        x = torch.cat((self.class_token.weight.expand(x.size(0), 1, -1).to(x.dtype), x), 1)  # (B, 1 + patches, D)
        if self.position is not None:
            x = (x + self.position(torch.arange(x.size(1), device=x.device))).to(x.dtype)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class InputEmbedding(nn.Module):
    """drop(norm(tokens * scale + ngrams + token_types + positions)); all but tokens are optional."""

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
        """Embed `tokens` (B, T) at `positions` (T) or (B, T) -> (B, T, D).

        `token_types` (B, T) are segment ids; None: all 0; ValueError if the model has no embeddings for them. `cache`
        stores tokens for the n-grams of later passes.
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
        # Under autocast the residual stream is in low precision too; otherwise casts take a third of each step.
        x = x.to(dtype)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout) if self.training and self.dropout else x
