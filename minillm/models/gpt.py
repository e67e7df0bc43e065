"""GPT: a decoder-only language model (Radford et al. 2018, 2019); with other parts of the same stack, Llama's shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minillm.nn.block import Stack
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.embedding import InputEmbedding, LMHead, select
from minillm.nn.init import init_weights
from minillm.nn.output import Output
from minillm.nn.placement import place


class GPT(nn.Module):
    """embed -> decoder stack -> vocabulary head. The constructor only allocates; `init_weights` fills."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = InputEmbedding(config)
        self.decoder = Stack(config, causal=True)
        self.head = LMHead(config)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the head use the token table where the config says so; needed again after `to_empty`."""
        if self.config.tie_embeddings:
            self.head.proj.weight = self.embed.tokens.weight

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Tie, then fill every parameter by the table in `nn/init.py`; one generator state gives one model."""
        self.tie_weights()
        init_weights(self, self.config, generator)

    def forward(
        self,
        tokens: Tensor,
        *,
        types: Tensor | None = None,
        positions: Tensor | None = None,
        key_valid: Tensor | None = None,
        segments: Tensor | None = None,
        prefix_length: Tensor | None = None,
        predict_at: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Output:
        """Predict the token after each one.

        Args:
            tokens: (B, T) ids.
            types: (B, T) segment ids, of a model with segment embeddings.
            positions: (T) or (B, T); None: counted over the real tokens of each document.
            key_valid: (B, T) bool, False for padding.
            segments: (B, T) document ids of packed rows; documents do not see each other.
            prefix_length: (B,) tokens that every token sees, also backwards in time (prefix LM).
            predict_at: (B, P) indices into T where logits are wanted; None: everywhere.
            cache: what earlier passes computed; this pass goes on after it and is added to it.

        Returns:
            Output with logits (B, T, V) or (B, P, V).

        Raises:
            ValueError: more tokens than max_seq_len or the cache allows, or shapes that do not fit `tokens`.
        """
        self.config.require_length(tokens.size(1) + (0 if cache is None else cache.length))
        placement = place(tokens, positions=positions, key_valid=key_valid, segments=segments, cache=cache)
        x = self.embed(tokens, placement.positions, types, cache=cache)
        hidden = self.decoder(x, placement, prefix_length=prefix_length, cache=cache)
        return Output(self.head(select(hidden, predict_at)), hidden)

    @torch.no_grad()
    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[KVCache, Tensor]:
        """Prefill: read the prompts and predict what follows each.

        Args:
            tokens: (B, T) prompts, those shorter than the longest padded on the left.
            max_len: tokens that the cache can hold, prompt and continuation together.
            key_valid: (B, T) bool, False for padding; None: all prompts are of one length.
            prefix_length: (B,) tokens, padding included, that every token sees, also backwards in time; None: none.

        Returns:
            The cache to go on with, and logits (B, V).
        """
        cache = KVCache(self.config.num_layers, max_len)
        last = torch.full((tokens.size(0), 1), tokens.size(1) - 1, device=tokens.device)
        output = self(tokens, key_valid=key_valid, prefix_length=prefix_length, cache=cache, predict_at=last)
        return cache, output.logits[:, 0]

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Append tokens (B, T) to the rows: logits (B, T, V) after each."""
        return self(tokens, cache=cache).logits
