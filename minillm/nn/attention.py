"""Multi-head attention (Vaswani et al. 2017, section 3.2) with grouped key and value heads (Ainslie et al. 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.cache import KVCache, LayerKVCache
from minillm.nn.config import ModelConfig
from minillm.nn.kernels.attention import attend
from minillm.nn.mask import ScoreMask
from minillm.nn.norm import make_norm
from minillm.nn.position import RotaryAngles, apply_rotary


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | float = 0.0, *, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T * scale + mask) v (Vaswani et al. 2017, equation 1): the definition of attention.

    q is (B, H, T, K); k and v are (B, G, S, K), each head shared by H / G query heads. `mask` is added to the scores: 0
    where query t may attend to key s, -inf where not. `attend` in nn/kernels/attention.py is faster.
    """
    groups = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, K)
    scores = q @ k.transpose(-2, -1) * scale + mask  # (B, H, T, S)
    weights = F.dropout(scores.softmax(-1), dropout)
    return weights @ v  # (B, H, T, K)


class AttentionInputs(NamedTuple):
    """Inputs of a block's attention layers besides x; the same for all blocks of a Stack except the cache."""

    mask: ScoreMask = ScoreMask()
    """Which keys each query may attend to."""
    angles: RotaryAngles | None = None
    """Rotary angles of queries and keys; None: no rotary positions."""
    encoder_output: Tensor | None = None
    """(B, S, D) source of keys and values in cross-attention; None: they come from x itself (self-attention)."""
    layer_cache: LayerKVCache | None = None
    """Keys and values of earlier passes; this pass appends its own."""
    start: int = 0
    """Number of keys in the cache before this pass."""
    cross: AttentionInputs | None = None
    """Inputs of cross-attention, if the block has it."""

    def for_layer(self, cache: KVCache, layer: int) -> AttentionInputs:
        """These inputs with the cache of one layer."""
        cross = None if self.cross is None else self.cross._replace(layer_cache=cache.cross_layers[layer])
        own = cache.self_layers[layer]
        return AttentionInputs(self.mask, self.angles, layer_cache=own, start=self.start, cross=cross)


class Attention(nn.Module):
    """Multi-head attention: projections to q, k and v, attention, and an output projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_width
        inner, kv_inner = config.num_heads * self.head_dim, config.kv_heads * self.head_dim
        biased = config.biased_projections
        self.q = nn.Linear(config.d_model, inner, bias=biased != "none")
        self.k = nn.Linear(config.d_model, kv_inner, bias=biased != "none")
        self.v = nn.Linear(config.d_model, kv_inner, bias=biased != "none")
        self.out = nn.Linear(inner, config.d_model, bias=biased == "all")
        self.q_norm = make_norm(config, self.head_dim) if config.qk_norm else None
        self.k_norm = make_norm(config, self.head_dim) if config.qk_norm else None
        self.scale = self.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.dropout = config.attention_drop

    def forward(self, x: Tensor, inputs: AttentionInputs) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        cache = inputs.layer_cache
        q = self._heads(self.q(x), self.q_norm, inputs.angles)  # (B, H, T, K)
        if cache is not None and cache.complete:
            k, v = cache.read()
        else:
            source = x if inputs.encoder_output is None else inputs.encoder_output
            k = self._heads(self.k(source), self.k_norm, inputs.angles)  # (B, G, S, K)
            v = self._heads(self.v(source))
            if cache is not None:
                k, v = cache.write(k, v, inputs.start)
        y = attend(q, k, v, inputs.mask, scale=self.scale, dropout=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, D)

    def _heads(self, x: Tensor, norm: nn.Module | None = None, angles: RotaryAngles | None = None) -> Tensor:
        """(B, T, H K) -> (B, H, T, K). Sharded projections have fewer heads, so H is inferred from the width."""
        heads = x.view(x.size(0), x.size(1), -1, self.head_dim).transpose(1, 2)
        if norm is not None:
            heads = norm(heads)
        return heads if angles is None else apply_rotary(heads, angles)
