"""A Block of residual sublayers, and the Stack of Blocks that every model is built from (Vaswani et al. 2017)."""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.attention import Attention, AttentionInputs
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import FeedForward
from minillm.nn.mask import AttentionMask, ScoreMask, compute_dtype, resolve_mask
from minillm.nn.norm import make_norm
from minillm.nn.position import RotaryPosition, relative_position
from minillm.nn.token_layout import TokenLayout


class SublayerConnection(nn.Module):
    """A sublayer f with norm, dropout and residual connection; the only place that distinguishes pre-LN from post-LN.

    pre: x + drop(f(norm(x)))     post: norm(x + drop(f(x)))
    """

    def __init__(self, sublayer: nn.Module, config: ModelConfig, *, norm: bool = True) -> None:
        super().__init__()
        self.norm, self.sublayer = make_norm(config) if norm else nn.Identity(), sublayer
        self.pre, self.dropout = config.norm_order == "pre", config.dropout

    def forward(self, x: Tensor, *inputs: AttentionInputs) -> Tensor:
        """x (B, T, D) -> (B, T, D); `inputs` if the sublayer is an Attention."""
        y = self.sublayer(self.norm(x) if self.pre else x, *inputs)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        return x + y if self.pre else self.norm(x + y)


class Block(nn.Module):
    """Self-attention, cross-attention to an encoder's output if `cross`, and feed-forward."""

    def __init__(self, config: ModelConfig, *, cross: bool, first: bool = False) -> None:
        super().__init__()
        self.attn = SublayerConnection(Attention(config), config, norm=config.first_norm or not first)
        self.cross = SublayerConnection(Attention(config), config) if cross else None
        self.ffn = SublayerConnection(FeedForward(config), config)

    def forward(self, x: Tensor, inputs: AttentionInputs) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        x = self.attn(x, inputs)
        if self.cross is not None:
            assert inputs.cross is not None, "Stack.forward requires encoder_output"
            x = self.cross(x, inputs.cross)
        return self.ffn(x)


class Stack(nn.Module):
    """num_layers Blocks that share one relative position scheme: an encoder, or a decoder if `causal`."""

    def __init__(self, config: ModelConfig, *, causal: bool, cross: bool = False) -> None:
        super().__init__()
        self.causal, self.cross = causal, cross
        self.window, self.layer_kinds = config.window, config.layer_kinds
        self.position = relative_position(config, bidirectional=not causal)
        theta = config.local_rope_theta
        self.local_position = None if theta is None else RotaryPosition(config.head_width, theta)
        self.blocks = nn.ModuleDict(
            {str(i): Block(config, cross=cross, first=i == 0) for i in range(config.num_layers)}
        )
        self.final_norm = make_norm(config) if config.norm_order == "pre" else nn.Identity()
        self.final_dropout = config.dropout if config.final_dropout else 0.0

    def forward(
        self,
        x: Tensor,
        layout: TokenLayout,
        *,
        prefix_length: Tensor | None = None,
        encoder_output: Tensor | None = None,
        encoder_valid: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Run all blocks: embedded tokens x (B, T, D) -> (B, T, D), after the final norm.

        Args:
            layout: position, document and validity of these tokens and of those in the cache.
            prefix_length: (B,) number of first keys that every query attends to, even in a causal stack.
            encoder_output: (B, S, D), required if `cross`; a cache keeps it for later passes.
            encoder_valid: (B, S) bool, False for padding of the encoder's input.
            cache: keys and values of earlier passes; this pass appends its own.
        """
        if cache is not None:
            cache.require(x.size(1))
            encoder_output, encoder_valid = cache.recall(encoder_output, encoder_valid)
        if self.cross != (encoder_output is not None):
            raise ValueError(f"this stack has cross={self.cross}; it takes an encoder_output only if cross=True")
        cross = None
        if encoder_output is not None:
            cross = AttentionInputs(_cross_mask(x, encoder_output, encoder_valid), encoder_output=encoder_output)
        inputs = self._inputs(x, layout, prefix_length, cross)
        for i, (number, block) in enumerate(self.blocks.items()):
            own = inputs[self.layer_kinds[int(number)]]
            x = block(x, own if cache is None else own.for_layer(cache, i))
        if cache is not None:
            cache.length += x.size(1)
        x = self.final_norm(x)
        return F.dropout(x, self.final_dropout) if self.training and self.final_dropout else x

    def _inputs(
        self, x: Tensor, layout: TokenLayout, prefix_length: Tensor | None, cross: AttentionInputs | None
    ) -> dict[str, AttentionInputs]:
        """Mask, position bias and rotary angles of self-attention, for each kind of layer."""
        positions, dtype, num_keys = layout.positions, compute_dtype(x), layout.start + x.size(1)
        bias = self.position.bias(positions, layout.key_positions) if self.position.needs_bias else None
        full = AttentionMask(self.causal, layout.key_valid, prefix_length, layout.document_ids)
        # a window that is longer than the text excludes nothing
        reached = self.window is None or (layout.all_positions is None and num_keys <= self.window)
        local = full if reached else replace(full, window=self.window, key_positions=layout.key_positions)
        found: dict[str, AttentionInputs] = {}
        for kind in dict.fromkeys(self.layer_kinds):
            position, mask = (self.position, full) if kind == "full" else (self.local_position or self.position, local)
            score_mask = resolve_mask(mask, bias, start=layout.start, num_queries=x.size(1), num_keys=num_keys, like=x)
            angles = position.angles(positions, dtype)
            found[kind] = AttentionInputs(score_mask, angles, start=layout.start, cross=cross)
        return found


def _cross_mask(x: Tensor, encoder_output: Tensor, encoder_valid: Tensor | None) -> ScoreMask:
    """Mask of cross-attention: every token of x may attend to every valid token of the encoder."""
    mask, num_keys = AttentionMask(key_valid=encoder_valid), encoder_output.size(1)
    return resolve_mask(mask, None, start=0, num_queries=x.size(1), num_keys=num_keys, like=x)
