"""T5: an encoder-decoder (Raffel et al. 2020); with sinusoidal positions and post-LN, the Transformer (Vaswani 2017).

The decoder reads what it is given: that its input is the target shifted right is the business of whoever makes batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minillm.models.base import Model
from minillm.nn.block import Stack
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.nn.token_layout import layout_of


class T5(Model):
    """One embedding for two stacks; the decoder reads the encoder's output -> vocabulary head."""

    writes = "answer"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Stack(config, causal=False)
        self.decoder = Stack(config, causal=True, cross=True)
        self.add_heads()

    def forward(
        self,
        encoder_tokens: Tensor,
        decoder_tokens: Tensor,
        *,
        encoder_valid: Tensor | None = None,
        decoder_valid: Tensor | None = None,
        predict_at: Tensor | None = None,
    ) -> Output:
        """Predict the token after each of the decoder's, given the encoder's.

        Args:
            encoder_tokens: (B, S) ids of the source.
            decoder_tokens: (B, T) ids of the target so far.
            encoder_valid: (B, S) bool, False for padding.
            decoder_valid: (B, T) bool, False for padding; not needed where it stands at the end, which none sees.
            predict_at: (B, P) indices into T where logits are wanted; None: everywhere.

        Returns:
            Output with logits "lm" (B, T, V) or (B, P, V).

        Raises:
            ValueError: more tokens than max_seq_len on either side, or shapes that do not fit.
        """
        memory = self.encode(encoder_tokens, key_valid=encoder_valid)
        return self.decode(
            decoder_tokens, memory=memory, memory_valid=encoder_valid, key_valid=decoder_valid, predict_at=predict_at
        )

    def encode(self, tokens: Tensor, *, key_valid: Tensor | None = None) -> Tensor:
        """Read sources (B, S), padding where (B, S) `key_valid` is False: (B, S, D) memory for `decode`."""
        self.config.require_length(tokens.size(1))
        layout = layout_of(tokens, key_valid=key_valid)
        return self.encoder(self.embed(tokens, layout.positions), layout)

    def decode(
        self,
        tokens: Tensor,
        *,
        memory: Tensor | None = None,
        memory_valid: Tensor | None = None,
        key_valid: Tensor | None = None,
        predict_at: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Output:
        """Predict the token after each one of `tokens` (B, T).

        Args:
            tokens: (B, T) ids.
            memory: (B, S, D) what `encode` returned; needed once with one cache, which keeps it.
            memory_valid: (B, S) bool, False for the sources' padding.
            key_valid: (B, T) bool, False for padding.
            predict_at: (B, P) indices into T where logits are wanted; None: everywhere.
            cache: what earlier passes computed; this pass goes on after it and is added to it.
        """
        self.config.require_length(tokens.size(1) + (0 if cache is None else cache.length))
        layout = layout_of(tokens, key_valid=key_valid, cache=cache)
        x = self.embed(tokens, layout.positions, cache=cache)
        hidden = self.decoder(x, layout, memory=memory, memory_valid=memory_valid, cache=cache)
        return self.predict(hidden, predict_at)

    @torch.no_grad()
    def start(
        self,
        tokens: Tensor,
        *,
        memory: Tensor,
        memory_valid: Tensor | None = None,
        max_len: int,
        key_valid: Tensor | None = None,
    ) -> tuple[KVCache, Tensor]:
        """Prefill: read how each target begins and predict what follows.

        Args:
            tokens: (B, T) beginnings, those shorter than the longest padded on the left.
            memory: (B, S, D) what `encode` returned; its keys and values are computed here, once.
            memory_valid: (B, S) bool, False for the sources' padding.
            max_len: tokens that the cache can hold, beginning and continuation together.
            key_valid: (B, T) bool, False for padding; None: all beginnings are of one length.

        Returns:
            The cache to go on with, and logits (B, V).
        """
        cache = KVCache(self.config.num_layers, max_len, memory_len=memory.size(1))
        last = torch.full((tokens.size(0), 1), tokens.size(1) - 1, device=tokens.device)
        output = self.decode(
            tokens, memory=memory, memory_valid=memory_valid, key_valid=key_valid, predict_at=last, cache=cache
        )
        return cache, output.logits["lm"][:, 0]

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Append tokens (B, T) to the targets: logits (B, T, V) after each."""
        return self.decode(tokens, cache=cache).logits["lm"]
