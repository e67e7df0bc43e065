"""A decoder that reads its prompt in both directions, as prefix language modelling trains it to (Raffel et al. 2020,
section 3.2.1). What it writes itself it reads causally, also where the cache is refilled past the context window.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from minillm.generation.network import Around, Network
from minillm.nn.cache import KVCache


class PrefixReader(Network, Protocol):
    """A model that can read a beginning in both directions; GPT is one."""

    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[KVCache, Tensor]:
        """As of `Decodable`; the first `prefix_length` (B,) columns, padding included, are seen by every token."""
        ...

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens (B, T) more of each row: (B, T, V) logits after each."""
        ...


class Prefixed(Around):
    """A model whose prompts are prefixes: `generate(Prefixed(model), prompts, config)`."""

    def __init__(self, model: PrefixReader) -> None:
        self.model: PrefixReader = model

    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, written: int = 0
    ) -> tuple[KVCache, Tensor]:
        """As of `Decodable`; of tokens (B, T) all but the last `written` of each row are prompt."""
        prefix_length = tokens.new_full((tokens.size(0),), max(0, tokens.size(1) - written))
        return self.model.start(tokens, max_len=max_len, key_valid=key_valid, prefix_length=prefix_length)

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens (B, T) more of each row: (B, T, V) logits after each."""
        return self.model.step(tokens, cache)
