"""Continuous batching (Yu et al. 2022): a text that ends leaves the batch, and a waiting one takes its place.

All rows end at the same column of the KV cache, as in a batch padded on the left, so a new row is copied to the last
columns and the earlier ones are marked as padding. A row's text therefore does not depend on its neighbors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.generation.adapters import Decodable, EndIds, end_ids, evaluating, padded
from minillm.generation.config import SampleConfig
from minillm.generation.generate import (
    Completion,
    TokenEvent,
    TokenEvents,
    prefill,
    require_finite,
    unwritten,
    window_start,
)
from minillm.generation.sampling import BLOCK, Sampler

ADMIT_SHARE = 8
"""New rows enter when this fraction of the places is free, so that they are read together."""


def stream_queue(
    model: Decodable,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    slots: int,
    prefix: bool = False,
    eos_id: EndIds = None,
    allowed: Tensor | None = None,
) -> TokenEvents:
    """As `stream`, with at most `slots` rows in a batch; the longest prompts come first."""
    rows = unwritten(model, prompts, config, eos_id=eos_id)
    return _events(_Batch(model, rows, config, min(slots, len(rows)), prefix, allowed), end_ids(eos_id))


@torch.inference_mode()
def _events(batch: _Batch, ends: Sequence[int]) -> TokenEvents:
    if not batch.texts or not batch.config.max_new_tokens:
        return
    with evaluating(batch.model):
        batch.fill()
        while batch.live:
            tokens = batch.sampler(batch.logits)  # (B, 1)
            for slot, token in enumerate(tokens.flatten().tolist()):
                row = batch.places[slot]
                if row is None:
                    continue
                batch.texts[row].append(token)
                is_eos, is_last = token in ends, batch.written(row) == batch.config.max_new_tokens
                event = TokenEvent(row, token, "length" if is_last else None)
                if (yield TokenEvent(row, None, "eos") if is_eos else event) or is_eos or is_last:
                    batch.places[slot] = None
            batch.advance(tokens)


class _Batch:
    """The rows that are in the batch, and those that wait."""

    def __init__(
        self,
        model: Decodable,
        rows: Sequence[Completion],
        config: SampleConfig,
        slots: int,
        prefix: bool,
        allowed: Tensor | None,
    ) -> None:
        self.model, self.config, self.prefix, self.allowed = model, config, prefix, allowed
        self.samples = [row.sample for row in rows]
        self.texts = [list(row.prompt_ids) for row in rows]
        self.lengths = [len(text) for text in self.texts]
        self.context: int = model.config.max_seq_len
        self.waiting = deque(sorted(range(len(rows)), key=lambda row: -self.lengths[row]))
        self.places: list[int | None] = [None] * slots
        """The row in each place of the batch."""
        self.streams: list[Iterator[float]] = []
        self.cache: Any = None
        self.logits: Any = None
        self.sampler: Any = None

    @property
    def live(self) -> list[int]:
        """The places that are taken."""
        return [slot for slot, row in enumerate(self.places) if row is not None]

    def written(self, row: int) -> int:
        """Number of new tokens."""
        return len(self.texts[row]) - self.lengths[row]

    def window(self, row: int) -> list[int]:
        """The part of a text that the model reads."""
        text = self.texts[row]
        return text[window_start(len(text), self.context) :]

    def fill(self) -> None:
        """Read the first rows."""
        self.places = [self.waiting.popleft() for _ in self.places]
        rows = [row for row in self.places if row is not None]
        longest = max(len(self.window(row)) for row in rows)
        ids, valid = padded([self.window(row) for row in rows], side="left", device=self._device)
        valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
        prefix_length = ids.new_full(ids.shape[:1], ids.size(1)) if self.prefix else None
        max_len = min(self.context, longest + self.config.max_new_tokens)
        self.cache, self.logits = self.model.start(ids, max_len=max_len, key_valid=valid, prefix_length=prefix_length)
        require_finite(self.logits)
        texts, samples = [self.texts[row] for row in rows], [self.samples[row] for row in rows]
        self.sampler = Sampler(self.config, texts, samples, self.logits, self.allowed)
        if self.sampler.uniforms is not None:
            self.streams = [uniforms(self.config.seed, sample) for sample in samples]
            self.sampler.uniforms = _columns(self.streams, self._device)

    def advance(self, tokens: Tensor) -> None:
        """Compute the logits for the next tokens of all rows, and let waiting rows enter."""
        live = self.live
        moved = [slot for slot in live if self._window_moved(slot)]
        free = [slot for slot, row in enumerate(self.places) if row is None]
        enters = bool(self.waiting) and len(free) >= max(1, len(self.places) // ADMIT_SHARE)
        staying = [slot for slot in live if slot not in moved]
        if staying:
            tokens = self._leave(tokens, staying if not enters and not moved and not self.waiting else None)
            self._make_room()
            self.logits = self.model.step(tokens, self.cache)[:, 0]
        for slot in moved:
            self._read([slot])
        if enters:
            for slot in free[: len(self.waiting)]:
                self.places[slot] = row = self.waiting.popleft()
                self.sampler.restart(slot, self.texts[row])
                if self.streams:
                    self.streams[slot] = uniforms(self.config.seed, self.samples[row])
            self._read([slot for slot in free if self.places[slot] is not None])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _window_moved(self, slot: int) -> bool:
        """Whether the last token made a text too long for its window, so that it must be read again."""
        length = len(self.texts[self._row(slot)])
        return window_start(length, self.context) != window_start(length - 1, self.context)

    def _row(self, slot: int) -> int:
        row = self.places[slot]
        assert row is not None, "the place is taken"
        return row

    def _leave(self, tokens: Tensor, staying: list[int] | None) -> Tensor:
        """Drop the free places once they are half of the batch and no row waits."""
        if staying is None or 2 * len(staying) > len(self.places):
            return tokens
        keep = torch.tensor(staying, device=tokens.device)
        self.cache.take(keep)
        self.sampler.take(keep)
        self.streams[:] = [self.streams[slot] for slot in staying] if self.streams else []
        self.places = [self.places[slot] for slot in staying]
        return tokens[keep]

    def _make_room(self) -> None:
        """Drop the first columns of a full cache: rows that have ended needed them."""
        if self.cache.length == self.cache.max_len:
            windows = [self.window(self._row(slot)) for slot in self.live if not self._window_moved(slot)]
            self.cache.shift(max(map(len, windows)) - 1 - self.cache.length)

    def _read(self, slots: list[int]) -> None:
        """Read the windows of rows and put them into the cache."""
        written = self.written(self._row(slots[0])) if len(slots) == 1 else 0
        texts = [self.texts[self._row(slot)] for slot in slots]
        cache, logits = prefill(self.model, texts, 1, prefix=self.prefix, num_written=written)
        self.cache.insert(slots, cache)
        self.logits[slots] = logits


def uniforms(seed: int, sample: int) -> Iterator[float]:
    """The random numbers of one row, as in `uniform_columns`."""
    stream = np.random.default_rng((seed, sample))
    while True:
        yield from stream.random(BLOCK, dtype=np.float32).tolist()


def _columns(streams: list[Iterator[float]], device: torch.device) -> Iterator[Tensor]:
    """(B, 1) the next random number of each row; `streams` may change between two of them."""
    while True:
        yield torch.tensor([[next(stream)] for stream in streams], device=device)
