"""What generation needs of a model, and the adapter that makes an encoder-decoder one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig


class Network(Protocol):
    """What generation needs of every model. `parameters` yields at least one tensor, on the model's device."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def training(self) -> bool: ...

    def train(self, mode: bool = True) -> Any: ...

    def parameters(self) -> Iterator[Tensor]: ...


class Decodable(Network, Protocol):
    """A model that continues tokens one by one: a GPT, or a T5 as `ConditionedDecoder`."""

    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[KVCache, Tensor]:
        """Read (B, T) tokens, padded on the left where (B, T) `key_valid` is False, the first `prefix_length` (B,)
        columns in both directions. Returns a cache for `max_len` tokens and the next logits (B, V).
        """
        ...

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read the next tokens (B, T) of each row: logits (B, T, V) after each."""
        ...


class EncoderDecoder(Network, Protocol):
    """A model that reads a source and writes a target: T5."""

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
        """As `Decodable.start`, for the first tokens (B, T) of each target; the cache keeps the memory."""
        ...

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """As `Decodable.step`."""
        ...


class TextCodec(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def first_blank(self) -> bool: ...

    @property
    def prefix_ids(self) -> tuple[int, ...]: ...

    @property
    def extra_ids(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> np.ndarray:
        """(vocab_size,) bytes of text that each id stands for; 0 for special ids."""
        ...

    def encode(self, text: str) -> np.ndarray: ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


class ConditionedDecoder(nn.Module):
    """The decoder of an encoder-decoder, conditioned on sources that the encoder has read once.

        generate(ConditionedDecoder(model, sources), [[start_id]] * len(sources), config)

    Every batch it is given holds the same number of adjacent rows for each source, in the sources' order: one row per
    sample or beam.
    """

    @torch.inference_mode()
    def __init__(self, model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> None:
        """Read the sources: ids, 1 to max_seq_len of them each, else ValueError."""
        super().__init__()
        self.model, self.config = model, model.config
        self.train(model.training)
        rows = [checked_prompt(source, None, model.config.vocab_size) for source in sources]
        if not rows:
            raise ValueError("there are no sources; give at least one")
        tokens, self.memory_valid = padded(rows, side="right", device=next(iter(model.parameters())).device)
        with evaluating(model):
            self.memory = model.encode(tokens, key_valid=self.memory_valid)  # (N, S, D)

    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[KVCache, Tensor]:
        """As `Decodable.start`; the rows (B, T) are the first tokens of each target, B a multiple of the sources."""
        if prefix_length is not None:
            raise ValueError("an encoder-decoder reads its source in both directions anyway; leave out prefix")
        copies, rest = divmod(tokens.size(0), self.memory.size(0))
        if rest or not copies:
            raise ValueError(
                f"{tokens.size(0)} targets do not fit {self.memory.size(0)} sources; give one prompt per source"
            )
        memory, valid = self.memory, self.memory_valid
        if copies > 1:
            memory = memory.repeat_interleave(copies, 0)
            valid = None if valid is None else valid.repeat_interleave(copies, 0)
        return self.model.start(tokens, memory=memory, memory_valid=valid, max_len=max_len, key_valid=key_valid)

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """As `Decodable.step`."""
        return self.model.step(tokens, cache)


def checked_prompt(prompt: Sequence[int], eos_id: int | None, vocab_size: int | None) -> tuple[int, ...]:
    """The prompt's ids, or EOS if there are none; ValueError if the model cannot read them."""
    ids = tuple(int(i) for i in prompt) or (() if eos_id is None else (eos_id,))
    if not ids:
        raise ValueError("the prompt is empty and there is no EOS to start from; give at least one token")
    if vocab_size is not None and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise ValueError(
            f"prompt token {wrong} is outside the model's vocabulary of {vocab_size}; use the model's own tokenizer"
        )
    return ids


def padded(
    rows: Sequence[Sequence[int]], *, side: Literal["left", "right"], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Rows of ids as one (B, T) tensor, and (B, T) bool, False for padding; None if no row is padded."""
    lengths = torch.tensor([[len(row)] for row in rows])  # (B, 1)
    width = int(lengths.max())
    pads = [[0] * (width - len(row)) for row in rows]
    filled = [pad + list(row) if side == "left" else list(row) + pad for pad, row in zip(pads, rows, strict=True)]
    ids = torch.tensor(filled).to(device)  # (B, T)
    if (lengths == width).all():
        return ids, None
    at = torch.arange(width)
    return ids, (at >= width - lengths if side == "left" else at < lengths).to(device)


@contextmanager
def evaluating(model: Network) -> Iterator[None]:
    """Dropout off inside the context, and afterwards as it was."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)
