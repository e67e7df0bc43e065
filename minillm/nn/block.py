"""A Block of residual sublayers, and the Stack of Blocks that every model is built from (Vaswani et al. 2017)."""

import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.attention import Attention, AttentionInputs
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import FeedForward
from minillm.nn.mask import AttentionMask, ScoreMask, compute_dtype, resolve_mask
from minillm.nn.norm import make_norm
from minillm.nn.position import relative_position
from minillm.nn.token_layout import TokenLayout


class SublayerConnection(nn.Module):
    """A sublayer f with norm, dropout and residual connection; the only place that distinguishes pre-LN from post-LN.

    pre: x + drop(f(norm(x)))     post: norm(x + drop(f(x)))
    """

    def __init__(self, sublayer: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.norm, self.sublayer = make_norm(config), sublayer
        self.pre, self.dropout = config.norm_order == "pre", config.dropout

    def forward(self, x: Tensor, *inputs: AttentionInputs) -> Tensor:
        """x (B, T, D) -> (B, T, D); `inputs` if the sublayer is an Attention."""
        y = self.sublayer(self.norm(x) if self.pre else x, *inputs)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        return x + y if self.pre else self.norm(x + y)


class Block(nn.Module):
    """Self-attention, cross-attention to an encoder's output if `cross`, and feed-forward."""

    def __init__(self, config: ModelConfig, *, cross: bool) -> None:
        super().__init__()
        self.attn = SublayerConnection(Attention(config), config)
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
        angles = self.position.angles(layout.positions, compute_dtype(x))
        mask = self._self_mask(x, layout, prefix_length)
        inputs = AttentionInputs(mask, angles, start=layout.start, cross=cross)
        for i, block in enumerate(self.blocks.values()):
            x = block(x, inputs if cache is None else inputs.for_layer(cache, i))
        if cache is not None:
            cache.length += x.size(1)
        x = self.final_norm(x)
        return F.dropout(x, self.final_dropout) if self.training and self.final_dropout else x

    def _self_mask(self, x: Tensor, layout: TokenLayout, prefix_length: Tensor | None) -> ScoreMask:
        """Mask and position bias of self-attention."""
        start, num_tokens, bias = layout.start, x.size(1), None
        if self.position.needs_bias:
            bias = self.position.bias(layout.positions, layout.key_positions)
        mask = AttentionMask(self.causal, layout.key_valid, prefix_length, layout.document_ids)
        return resolve_mask(mask, bias, start=start, num_queries=num_tokens, num_keys=start + num_tokens, like=x)


def _cross_mask(x: Tensor, encoder_output: Tensor, encoder_valid: Tensor | None) -> ScoreMask:
    """Mask of cross-attention: every token of x may attend to every valid token of the encoder."""
    mask, num_keys = AttentionMask(key_valid=encoder_valid), encoder_output.size(1)
    return resolve_mask(mask, None, start=0, num_queries=x.size(1), num_keys=num_keys, like=x)
