"""A GPT's forward pass with little work between the matrix products, for decoding on a CPU.

The arithmetic is that of models/gpt.py. Projections of q, k and v are one product, and so are gate and up. Rotary
angles, masks and the memory of the cache are made once per text. Residuals and norms are fp32; so are attention and the
cache, except with many rows. Products are as the plan says. `test_the_fast_decoder_equals_the_model` in
tests/inference/test_decoder.py compares logits for every setting that `supports` accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from minillm.inference.cache import FlatCache
from minillm.inference.layer import CacheView, FastLayer, FastNorm, Packing
from minillm.inference.products import Products
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.nn.mask import AttentionMask

KNOWN = {
    *("preset", "family", "vocab_size", "max_seq_len", "num_layers", "d_model", "num_heads", "num_kv_heads"),
    *("head_dim", "qk_norm", "attention_scale", "norm", "norm_eps", "norm_bias", "input_norm", "d_ff", "activation"),
    *("gated", "position", "rope_theta", "rope_scaling", "rope_factor", "rope_original_len", "rope_low_freq_factor"),
    *("rope_high_freq_factor", "relative_buckets", "relative_max_distance", "bias", "attention_bias", "dropout"),
    *("attention_dropout", "ff_dropout", "final_dropout", "num_token_types", "embed_scale", "tie_embeddings"),
    *("head_scale", "logit_softcap", "ngram_order", "ngram_rows", "init", "init_std", "residual_init", "head_bias"),
}
"""Settings whose every value this file computes, but for those in `supports`. Any other must have its default."""

WIDE = 8
"""Minimum number of rows for a wide cache; see FlatCache."""
POSITIONS = ("learned", "sinusoidal", "rotary", "none")
"""Position schemes without a bias."""


def supports(config: ModelConfig) -> bool:
    """Whether `FastDecoder` computes what a GPT of this config does."""
    others = [field for field in fields(config) if field.name not in KNOWN]
    plain = all(getattr(config, field.name) in (field.default, ("lm",)) for field in others)
    return plain and config.position in POSITIONS


class FastDecoder(nn.Module):
    """Generates like the GPT that it was made from; see `Decodable`."""

    writes = "continuation"

    def __init__(self, model: GPT, products: Products) -> None:
        """`products` are those of the model's weights. ValueError if `supports` is false."""
        super().__init__()
        if not supports(model.config):
            raise ValueError(f"a {model.config.preset} has parts that the fast decoder lacks; use the model itself")
        self.config, self.plan = model.config, products.plan
        self.embed, self.position = model.embed, model.decoder.position
        self.layers = [FastLayer(block, model.config, products) for block in model.decoder.blocks.values()]
        self.final_norm = FastNorm(model.decoder.final_norm, torch.float32)
        self.head = products.of(model.heads["lm"].get_submodule("proj"))
        self.train(model.training)  # generation restores this mode, and the model shares the embedding

    @property
    def draft_cost(self) -> float:
        """Cost of one more row in a step, as a fraction of the step."""
        return self.plan.draft_cost

    @torch.inference_mode()
    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[FlatCache, Tensor]:
        """As `GPT.start`."""
        wide = self.plan.dtype if tokens.is_cpu and tokens.size(0) >= WIDE else None
        cache = FlatCache(self.config, tokens.size(0), max_len, tokens.device, wide=wide)
        if self.config.position == "rotary":
            cache.rotations = rotations(self.position, max_len).to(tokens.device)
        hidden = self._read(tokens, cache, key_valid, prefix_length)
        return cache, self.predict(hidden[:, -1])

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: FlatCache) -> Tensor:
        """As `GPT.step`."""
        return self.predict(self._read(tokens, cache).flatten(0, 1)).unflatten(0, tokens.shape)

    def _read(
        self, tokens: Tensor, cache: FlatCache, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> Tensor:
        """(B, T, D) the hidden states of `tokens` (B, T), which follow those in the cache."""
        batch, length = tokens.shape
        start = cache.length
        self.config.require_length(start + length)
        cache.require(length)
        positions = cache.place(batch, length, key_valid)  # (T) or (B, T)
        x = self.embed(tokens, positions, cache=cache).flatten(0, 1)  # (B T, D)
        mask = None
        if length > 1 or cache.key_valid is not None:
            mask = AttentionMask(True, cache.key_valid, prefix_length).dense(start, length, start + length, x.device)
        if mask is not None and cache.key_valid is not None:
            mask = mask | ~mask.any(-1, keepdim=True)  # padding attends to anything; nothing reads it
        angles = None if cache.rotations is None else cache.angles(positions)
        packing = None if key_valid is None or key_valid.all() else Packing(key_valid)
        x = x if packing is None else packing.pack(x)
        x = self.through_layers(x, cache.views(length), angles, mask, batch, packing)
        x = x if packing is None else packing.unpack(x)
        cache.length += length
        return x.unflatten(0, (batch, length))

    def through_layers(
        self,
        x: Tensor,
        views: Sequence[CacheView],
        angles: Tensor | None,
        mask: Tensor | None,
        batch: int,
        packing: Packing | None = None,
    ) -> Tensor:
        """Rows x (N, D) after all layers (N, D); arguments as in `FastLayer`, with a view for each layer."""
        for layer, view in zip(self.layers, views, strict=True):
            x = layer(x, view, angles, mask, batch, packing)
        return x

    def predict(self, hidden: Tensor) -> Tensor:
        """(N, V) from hidden states (N, D)."""
        c, x = self.config, self.final_norm(hidden)
        logits = self.head(x if c.head_scale is None else x * c.head_scale)
        return logits if c.logit_softcap is None else c.logit_softcap * torch.tanh(logits / c.logit_softcap)


def rotations(position: Any, length: int) -> Tensor:
    """(length, K / 2) the complex numbers cos + i sin of the rotary angles at each position."""
    angles = position.angles(torch.arange(length), torch.float32)
    cos, sin = angles.cos[0], angles.sin[0]  # (length, K)
    half = cos.size(-1) // 2
    return torch.complex(cos[:, half:].contiguous(), sin[:, half:].contiguous())
