"""An encoder-decoder as a Decodable: its sources are read once, then its targets are continued like any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from minillm.generation.generate import checked_prompt, padded
from minillm.generation.network import Around, Network, evaluating
from minillm.nn.cache import KVCache


class EncoderDecoder(Network, Protocol):
    """A model that reads a source and continues a target; T5 is one."""

    def encode(self, tokens: Tensor, *, key_valid: Tensor | None = None) -> Tensor:
        """Read (B, S) sources, padded where (B, S) `key_valid` is False: (B, S, D) memory."""
        ...

    def start(
        self,
        tokens: Tensor,
        *,
        memory: Tensor,
        memory_valid: Tensor | None = None,
        max_len: int,
        key_valid: Tensor | None = None,
    ) -> tuple[KVCache, Tensor]:
        """Read how each target begins, (B, T): a cache that keeps the memory, and (B, V) next logits."""
        ...

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens (B, T) more of each row: (B, T, V) logits after each."""
        ...


class Conditioned(Around):
    """A model that has read its sources; its prompts are how the targets begin.

        starts = [[start_id]] * len(sources)
        generate(Conditioned(model, sources), starts, config)

    Every batch that it is given holds, for each source in order, the same number of rows side by side: one for each
    sample or beam.
    """

    @torch.inference_mode()
    def __init__(self, model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> None:
        """Read the sources, ids of any lengths from 1 to the model's max_seq_len; ValueError for others."""
        self.model: EncoderDecoder = model
        rows = [checked_prompt(source, None, model.config.vocab_size) for source in sources]
        if not rows:
            raise ValueError("there are no sources; give at least one")
        tokens, self.memory_valid = padded(rows, side="right", device=next(iter(model.parameters())).device)
        with evaluating(model):
            self.memory = model.encode(tokens, key_valid=self.memory_valid)  # (N, S, D)

    def start(self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None) -> tuple[KVCache, Tensor]:
        """Read how the targets begin, (B, T), B a multiple of the number of sources: a cache, (B, V) next logits."""
        copies, rest = divmod(tokens.size(0), self.memory.size(0))
        if rest or not copies:
            raise ValueError(
                f"{tokens.size(0)} targets do not fit {self.memory.size(0)} sources; give as many beginnings as sources"
            )
        memory, valid = self.memory, self.memory_valid
        if copies > 1:
            memory = memory.repeat_interleave(copies, 0)
            valid = None if valid is None else valid.repeat_interleave(copies, 0)
        return self.model.start(tokens, memory=memory, memory_valid=valid, max_len=max_len, key_valid=key_valid)

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens (B, T) more of each row: (B, T, V) logits after each."""
        return self.model.step(tokens, cache)
