"""GPT: a decoder-only language model (Radford et al. 2018, 2019); other settings give Llama and Qwen."""

import torch
from torch import Tensor

from minillm.models.base import Model
from minillm.nn.block import Stack
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.nn.token_layout import layout_of


class GPT(Model):
    """embed -> decoder stack -> vocabulary head."""

    writes = "continuation"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder = Stack(config, causal=True)
        self.add_heads()

    def forward(
        self,
        tokens: Tensor,
        *,
        token_types: Tensor | None = None,
        positions: Tensor | None = None,
        key_valid: Tensor | None = None,
        document_ids: Tensor | None = None,
        prefix_length: Tensor | None = None,
        predict_at: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Output:
        """Predict the token after each of `tokens` (B, T): logits "lm" (B, T, V) or (B, P, V).

        The class head reads the rightmost real token of each row.

        `positions`, `key_valid` and `document_ids` are as in `layout_of`, `token_types` as in `InputEmbedding`.

        Args:
            prefix_length: (B,) number of first tokens that all tokens attend to, even earlier ones (prefix LM).
            predict_at: (B, P) indices into T at which to compute logits; None: at all of them.
            cache: keys and values of earlier passes, which `tokens` follow; this pass appends its own.

        Raises:
            ValueError: more tokens than max_seq_len or the cache allows, or shapes that do not match `tokens`.
        """
        self.config.require_length(tokens.size(1) + (0 if cache is None else cache.length))
        layout = layout_of(tokens, positions=positions, key_valid=key_valid, document_ids=document_ids, cache=cache)
        x = self.embed(tokens, layout.positions, token_types, cache=cache)
        hidden = self.decoder(x, layout, prefix_length=prefix_length, cache=cache)
        return self.predict(hidden, predict_at, layout.key_valid)

    @torch.no_grad()
    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[KVCache, Tensor]:
        """Prefill: read the prompts (B, T), padded on the left -> a cache for `step`, logits (B, V) for the next token.

        The cache can hold `max_len` tokens, prompt included. `key_valid` (B, T) is False for padding, which counts in
        `prefix_length` (B,).
        """
        cache = KVCache(self.config.num_layers, max_len)
        last = torch.full((tokens.size(0), 1), tokens.size(1) - 1, device=tokens.device)
        output = self(tokens, key_valid=key_valid, prefix_length=prefix_length, cache=cache, predict_at=last)
        return cache, output.logits["lm"][:, 0]

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Append `tokens` (B, T) to the rows -> logits (B, T, V) for the next tokens."""
        return self(tokens, cache=cache).logits["lm"]
