"""Multi-head attention (Vaswani et al. 2017, section 3.2) with grouped key and value heads (Ainslie et al. 2023)."""

from __future__ import annotations

from torch import Tensor, nn

from minillm.nn.attend import attend
from minillm.nn.cache import LayerKVCache
from minillm.nn.config import ModelConfig
from minillm.nn.mask import ScoreMask
from minillm.nn.norm import make_norm
from minillm.nn.position import RotaryAngles, apply_rotary


class Attention(nn.Module):
    """softmax(q k^T * scale + mask) v over heads; self-attention, or cross-attention where `context` is given."""

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

    def forward(
        self,
        x: Tensor,
        *,
        mask: ScoreMask,
        context: Tensor | None = None,
        angles: RotaryAngles | None = None,
        layer_cache: LayerKVCache | None = None,
        start: int = 0,
    ) -> Tensor:
        """Let every token of `x` read what `mask` shows it.

        Args:
            x: (B, T, D) queries.
            mask: what may be read, for all layers of a stack alike.
            context: (B, S, D) what keys and values are made of; None: x itself.
            angles: turn of queries and keys by their positions; None: none.
            layer_cache: keys and values of earlier passes; this pass's are added to it.
            start: keys in the layer_cache before this pass.

        Returns:
            (B, T, D).
        """
        q = self._heads(self.q(x), self.q_norm, angles)  # (B, H, T, K)
        if layer_cache is not None and layer_cache.complete:
            k, v = layer_cache.read()
        else:
            source = x if context is None else context
            k = self._heads(self.k(source), self.k_norm, angles)  # (B, G, S, K)
            v = self._heads(self.v(source))
            if layer_cache is not None:
                k, v = layer_cache.write(k, v, start)
        y = attend(q, k, v, mask, scale=self.scale, dropout=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, D)

    def _heads(self, x: Tensor, norm: nn.Module | None = None, angles: RotaryAngles | None = None) -> Tensor:
        """(B, T, H K) -> (B, H, T, K); the -1 leaves the head count to the projection, which may be sharded."""
        heads = x.view(x.size(0), x.size(1), -1, self.head_dim).transpose(1, 2)
        if norm is not None:
            heads = norm(heads)
        return heads if angles is None else apply_rotary(heads, angles)
