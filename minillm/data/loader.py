"""Windows over a token stream, and the loader that serves them as a pure function of (seed, step).

The stream is circular: the EOS of the last document also precedes the first document. A window has `seq_len` targets
and the token before them. The ceil(N / seq_len) windows of N tokens predict each token exactly once; only the last one
may be shorter. Each epoch shifts the windows by a random offset, so that a token gets a different amount of context
each time, and shuffles them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

BatchT = TypeVar("BatchT")
Collate = Callable[[Sequence[Any], Callable[[int], np.random.Generator]], BatchT]
"""Makes a batch from examples; the second argument maps an example's index to its random generator."""

ROWS_NAMED = 8
"""Number of rows that the description of a step names."""
SHUFFLE, EVALUATION = 1, 2
"""Fourth word of the seed for shuffling and for evaluation. Seeds of training rows have three words."""


class Tokens:
    """The ids of one split, (N,) uint16 or uint32, memory-mapped: all documents, each followed by EOS.

    Args:
        ids: (N,) uint16 or uint32.
        eos_id: the id after every document. A document that the split cut in two counts as two documents.
        notes: what was left out of the source and why, one line each.
    """

    def __init__(self, ids: np.ndarray, eos_id: int, notes: tuple[str, ...] = ()):
        self._ids = np.asarray(ids)  # a plain view of the map: slicing a memmap object costs ten times as much
        self.eos_id, self.notes = eos_id, notes

    @property
    def num_tokens(self) -> int:
        """Including EOS."""
        return len(self._ids)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) ids, a read-only view."""
        return self._ids[start:stop]

    @property
    def document_starts(self) -> np.ndarray:
        """(D,) index of each document's first token."""
        ends = np.flatnonzero(self._ids == self.eos_id)
        return np.concatenate(([0], ends[:-1] + 1))


class Row(NamedTuple):
    """Origin of a row of a global batch. Its targets are [start, stop) of the token stream; a `stop` beyond the end of
    the stream means that the row wraps around.
    """

    epoch: int
    window: int
    start: int
    stop: int


class Examples(Protocol):
    """The examples that a loader serves."""

    @property
    def seq_len(self) -> int:
        """Maximum number of targets in an example."""
        ...

    @property
    def num_offsets(self) -> int:
        """Number of ways to divide the data into examples; each epoch draws one of them."""
        ...

    def __len__(self) -> int: ...

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        """[start, stop) of the example in the data, for messages."""
        ...

    def row(self, window: int, offset: int = 0) -> Any:
        """The example, as its collate function takes it; a pure function of the arguments."""
        ...


class Windows:
    """The windows of `seq_len` targets over a circular stream of at least two tokens."""

    def __init__(self, tokens: Tokens, seq_len: int):
        if seq_len < 1:
            raise ValueError(f"data.seq_len must be at least 1 token, not {seq_len}")
        if tokens.num_tokens < 2:
            raise ValueError(f"a window needs at least 2 tokens, the text has {tokens.num_tokens}: give more text")
        self.tokens, self.seq_len = tokens, seq_len

    @property
    def num_offsets(self) -> int:
        return self.tokens.num_tokens

    def __len__(self) -> int:
        return math.ceil(self.tokens.num_tokens / self.seq_len)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        """[start, stop) of the targets, with the windows shifted by `offset` tokens."""
        first = window * self.seq_len
        start = (offset + first) % self.tokens.num_tokens
        return start, start + min(self.seq_len, self.tokens.num_tokens - first)

    def row(self, window: int, offset: int = 0) -> np.ndarray:
        """(targets + 1,) int64: the token before the first target, and the targets."""
        start, stop = self.span(window, offset)
        num_tokens = self.tokens.num_tokens
        before = self.tokens.slice(start - 1, start) if start else self.tokens.slice(num_tokens - 1, num_tokens)
        ends = before, self.tokens.slice(start, min(stop, num_tokens)), self.tokens.slice(0, max(0, stop - num_tokens))
        return np.concatenate(ends).astype(np.int64)


class Loader(Generic[BatchT]):
    """Training batches. The rows of a step do not depend on the number of ranks or micro-batches.

    Args:
        windows: the examples, each served once per epoch. A global batch may reach into the next epoch.
        seed: of the order, the offsets and the rows' generators.
        global_batch: rows per step, over all ranks.
        micro_batch: maximum rows per batch; the last batch of a step may be smaller.
        rank, world_size: this process takes the rank-th contiguous share of each global batch.
    """

    def __init__(
        self,
        windows: Examples,
        collate: Collate[BatchT],
        *,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        if min(global_batch, micro_batch) < 1:
            raise ValueError(f"train.global_batch {global_batch} and train.micro_batch {micro_batch}: at least 1 each")
        if global_batch % world_size:
            raise ValueError(
                f"train.global_batch is {global_batch}; it must be a multiple of {world_size}, the number of ranks"
            )
        self.windows, self.collate, self.seed = windows, collate, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        share = global_batch // world_size
        self.local = range(rank * share, (rank + 1) * share)
        self._origin = (0, 0)  # (a step, number of examples read before it)
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def batches(self, step: int) -> list[BatchT]:
        """This rank's micro-batches of a step. Rows are sorted by length to reduce padding."""
        lengths = [row.stop - row.start for row in self.rows(step)]
        rows = sorted(range(self.global_batch), key=lengths.__getitem__)[self.local.start : self.local.stop]
        return [self._batch(step, rows[i : i + self.micro_batch]) for i in range(0, len(rows), self.micro_batch)]

    def rows(self, step: int) -> list[Row]:
        """The origin of all rows of the global batch."""
        return [self._row(step, i) for i in range(self.global_batch)]

    def describe(self, step: int) -> str:
        rows = self.rows(step)
        spans = ", ".join(f"{row.start}:{row.stop}" for row in rows[:ROWS_NAMED])
        more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
        return f"training tokens {spans}{more}"

    def examples_before(self, step: int) -> int:
        return self._origin[1] + (step - self._origin[0]) * self.global_batch

    def go_on(self, step: int, examples: int) -> None:
        self._origin = (step, examples)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...

    def halve_micro_batch(self) -> int | None:
        half = min(self.micro_batch, len(self.local)) // 2
        if half:
            self.micro_batch = half
        return half or None

    def _batch(self, step: int, global_rows: Sequence[int]) -> BatchT:
        rows = [self._row(step, i) for i in global_rows]
        examples = [self.windows.row(row.window, self._order(row.epoch)[1]) for row in rows]
        return self.collate(examples, lambda i: np.random.default_rng([self.seed, step, global_rows[i]]))

    def _row(self, step: int, global_row: int) -> Row:
        epoch, position = divmod(self.examples_before(step) + global_row, len(self.windows))
        order, offset = self._order(epoch)
        window = int(order[position])
        return Row(epoch, window, *self.windows.span(window, offset))

    def _shuffle(self, epoch: int) -> tuple[np.ndarray, int]:
        """The order of the windows in an epoch, and its offset."""
        rng = np.random.default_rng([self.seed, epoch, 0, SHUFFLE])
        offset = int(rng.integers(self.windows.num_offsets))
        return rng.permutation(len(self.windows)), offset


def eval_batches(
    windows: Examples,
    collate: Collate[BatchT],
    batch: int,
    *,
    max_tokens: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[BatchT]:
    """The windows in order, at offset 0.

    A window's generator depends on the window alone, so the masks, and therefore the losses, of two evaluations are
    comparable, for any `batch` and `world_size`.

    Args:
        batch: maximum rows per batch.
        max_tokens: use only as many windows as have at most this many targets, but at least one; None or 0: all.
        rank, world_size: this process takes its share of the batches. If there are not enough windows for all ranks,
            the last ranks get one batch less.
    """
    total = len(windows)
    if max_tokens:
        total = min(total, max(1, max_tokens // windows.seq_len))
    num_batches = world_size * math.ceil(total / (batch * world_size))
    for share in np.array_split(np.arange(total), num_batches)[rank::world_size]:
        if share.size:
            rows = [windows.row(window) for window in share.tolist()]
            yield collate(rows, lambda i, share=share: np.random.default_rng([0, share[i], 0, EVALUATION]))
