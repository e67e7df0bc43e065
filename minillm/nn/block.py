"""Residual sublayers, the Block made of them, and the Stack that every model is wired from (Vaswani et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.attention import Attention
from minillm.nn.cache import KVCache, LayerKVCache
from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import FeedForward
from minillm.nn.mask import AttentionMask, ScoreMask, compute_dtype, resolve
from minillm.nn.norm import make_norm
from minillm.nn.position import RotaryAngles, relative_position
from minillm.nn.token_layout import TokenLayout


class SublayerConnection(nn.Module):
    """A sublayer f with its norm, dropout and skip connection; the only place that knows pre-LN from post-LN.

    pre: x + drop(f(norm(x)))     post: norm(x + drop(f(x)))
    """

    def __init__(self, sublayer: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.norm, self.sublayer = make_norm(config), sublayer
        self.pre, self.dropout = config.norm_order == "pre", config.dropout

    def forward(self, x: Tensor, **to_sublayer: Any) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        y = self.sublayer(self.norm(x) if self.pre else x, **to_sublayer)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        return x + y if self.pre else self.norm(x + y)


class Block(nn.Module):
    """Self-attention, cross-attention where there is an encoder to read, feed-forward."""

    def __init__(self, config: ModelConfig, *, cross: bool) -> None:
        super().__init__()
        self.attn = SublayerConnection(Attention(config), config)
        self.cross = SublayerConnection(Attention(config), config) if cross else None
        self.ffn = SublayerConnection(FeedForward(config), config)

    def forward(
        self,
        x: Tensor,
        *,
        mask: ScoreMask,
        angles: RotaryAngles | None = None,
        layer_cache: LayerKVCache | None = None,
        start: int = 0,
        memory: Tensor | None = None,
        memory_mask: ScoreMask | None = None,
        cross_cache: LayerKVCache | None = None,
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D); `memory` (B, S, D) is what cross-attention reads."""
        x = self.attn(x, mask=mask, angles=angles, layer_cache=layer_cache, start=start)
        if self.cross is not None:
            x = self.cross(x, mask=memory_mask, context=memory, layer_cache=cross_cache)
        return self.ffn(x)


class Stack(nn.Module):
    """num_layers Blocks that share one relative-position scheme; an encoder, or a decoder where `causal`.

    Args:
        causal: no token sees a later one.
        cross: every block reads an encoder's output too.
    """

    def __init__(self, config: ModelConfig, *, causal: bool, cross: bool = False) -> None:
        super().__init__()
        self.causal, self.cross = causal, cross
        self.position = relative_position(config, bidirectional=not causal)
        self.blocks = nn.ModuleDict({str(i): Block(config, cross=cross) for i in range(config.num_layers)})
        self.final_norm = make_norm(config) if config.norm_order == "pre" else nn.Identity()
        self.final_dropout = config.dropout if config.final_dropout else 0.0

    def forward(
        self,
        x: Tensor,
        layout: TokenLayout,
        *,
        prefix_length: Tensor | None = None,
        memory: Tensor | None = None,
        memory_valid: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Run all blocks.

        Args:
            x: (B, T, D) embedded tokens.
            layout: where these tokens stand.
            prefix_length: (B,) keys that every query sees although the stack is causal.
            memory: (B, S, D) encoder output; needed where `cross`, but only once with one cache.
            memory_valid: (B, S) bool, False for its padding.
            cache: keys and values of earlier passes; moves on by T.

        Returns:
            (B, T, D), after the last norm.
        """
        if cache is not None and self.cross:
            memory, memory_valid = cache.recall(memory, memory_valid)
        if self.cross != (memory is not None):
            raise ValueError(f"this stack was built with cross={self.cross}; memory goes with cross=True only")
        start, num_queries = layout.start, x.size(1)
        if cache is not None:
            cache.require(num_queries)
        bias = None
        if self.position.needs_bias:
            bias = self.position.bias(layout.positions, layout.key_positions)
        shown = AttentionMask(self.causal, layout.key_valid, prefix_length, layout.document_ids)
        mask = resolve(shown, bias, start=start, num_queries=num_queries, num_keys=start + num_queries, like=x)
        memory_mask = None
        if memory is not None:
            read = AttentionMask(key_valid=memory_valid)
            memory_mask = resolve(read, None, start=0, num_queries=num_queries, num_keys=memory.size(1), like=x)
        angles = self.position.angles(layout.positions, compute_dtype(x))
        for i, block in enumerate(self.blocks.values()):
            x = block(
                x,
                mask=mask,
                angles=angles,
                layer_cache=None if cache is None else cache.self_layers[i],
                start=start,
                memory=memory,
                memory_mask=memory_mask,
                cross_cache=None if cache is None else cache.cross_layers[i],
            )
        if cache is not None:
            cache.length += num_queries
        x = self.final_norm(x)
        return F.dropout(x, self.final_dropout) if self.training and self.final_dropout else x
