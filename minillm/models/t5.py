"""T5: an encoder-decoder (Raffel et al. 2020); with sinusoidal positions and post-LN, the Transformer (Vaswani 2017).

The model does not shift the target; the caller passes the decoder's input.
"""

import torch
from torch import Tensor

from minillm.models.base import Model
from minillm.nn.block import Stack
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.nn.token_layout import layout_of


class T5(Model):
    """embed -> encoder stack; embed -> decoder stack with cross-attention to the encoder -> vocabulary head."""

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
        """Predict the token after each decoder token (B, T), the target shifted right, given the source (B, S).

        `encoder_valid` (B, S) and `decoder_valid` (B, T) are bool, False for padding. Padding at the end of the
        decoder's input needs no mask. Otherwise as `decode`.
        """
        output = self.encode(encoder_tokens, key_valid=encoder_valid)
        return self.decode(decoder_tokens, output, encoder_valid, key_valid=decoder_valid, predict_at=predict_at)

    def encode(self, tokens: Tensor, *, key_valid: Tensor | None = None) -> Tensor:
        """Encode `tokens` (B, S) -> (B, S, D), the encoder's output. `key_valid` (B, S) is False for padding."""
        self.config.require_length(tokens.size(1))
        layout = layout_of(tokens, key_valid=key_valid)
        return self.encoder(self.embed(tokens, layout.positions), layout)

    def decode(
        self,
        tokens: Tensor,
        encoder_output: Tensor | None = None,
        encoder_valid: Tensor | None = None,
        *,
        key_valid: Tensor | None = None,
        predict_at: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Output:
        """Predict the token after each of `tokens` (B, T), as `GPT.forward`.

        `encoder_output` (B, S, D) is the result of `encode`; `encoder_valid` (B, S) is False for padding of the source.
        With a cache, only the first pass needs them.
        """
        self.config.require_length(tokens.size(1) + (0 if cache is None else cache.length))
        layout = layout_of(tokens, key_valid=key_valid, cache=cache)
        x = self.embed(tokens, layout.positions, cache=cache)
        hidden = self.decoder(x, layout, encoder_output=encoder_output, encoder_valid=encoder_valid, cache=cache)
        return self.predict(hidden, predict_at)

    @torch.no_grad()
    def start(
        self,
        tokens: Tensor,
        *,
        encoder_output: Tensor,
        encoder_valid: Tensor | None = None,
        max_len: int,
        key_valid: Tensor | None = None,
    ) -> tuple[KVCache, Tensor]:
        """Prefill, as `GPT.start`: read the first tokens (B, T) of each target and predict the next one."""
        cache = KVCache(self.config.num_layers, max_len, encoder_len=encoder_output.size(1))
        last = torch.full((tokens.size(0), 1), tokens.size(1) - 1, device=tokens.device)
        output = self.decode(tokens, encoder_output, encoder_valid, key_valid=key_valid, predict_at=last, cache=cache)
        return cache, output.logits["lm"][:, 0]

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Append `tokens` (B, T) to the targets -> logits (B, T, V) for the next tokens."""
        return self.decode(tokens, cache=cache).logits["lm"]
