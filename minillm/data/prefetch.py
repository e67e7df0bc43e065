"""The trainer's source of batches, and a version that makes the next step's batches in a background thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, Protocol

from minillm.data.loader import BatchT

if TYPE_CHECKING:
    from torch import Tensor


class SourceError(ValueError):
    """A step's batches, or an evaluation, cannot be made. All ranks raise it together, and the trainer saves first."""


class BatchSource(Protocol[BatchT]):
    """The trainer's interface to data: batches as a function of (seed, step)."""

    def batches(self, step: int) -> list[BatchT]:
        """This rank's micro-batches of a step, counted from 0."""
        ...

    def describe(self, step: int) -> str:
        """Names the training data of a step, for a message."""
        ...

    def examples_before(self, step: int) -> int:
        """Number of examples read before a step, over all ranks."""
        ...

    def go_on(self, step: int, examples: int) -> None:
        """Resume at `step` after `examples` examples; the global batch may have had another size before."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What later batches depend on besides (seed, step), for a checkpoint; usually nothing. Collective."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`, after `go_on`."""
        ...

    def close(self) -> None:
        """Stop any background threads."""
        ...

    def halve_micro_batch(self) -> int | None:
        """Halve the micro-batch to save memory; returns its new size, or None if it cannot be halved."""
        ...


class Prefetched(Generic[BatchT]):
    """Makes the next step's batches in a thread, where `prepare` is applied to each, for example to pin its memory."""

    def __init__(self, source: BatchSource[BatchT], prepare: Callable[[BatchT], BatchT] | None = None) -> None:
        self.source, self.prepare = source, prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[BatchT]]] | None = None

    def batches(self, step: int) -> list[BatchT]:
        ahead, self._next = self._next, None
        found = ahead[1].result() if ahead is not None and ahead[0] == step else self._make(step)
        self._next = (step + 1, self._thread.submit(self._make, step + 1))
        return found

    def describe(self, step: int) -> str:
        return self.source.describe(step)

    def examples_before(self, step: int) -> int:
        return self.source.examples_before(step)

    def go_on(self, step: int, examples: int) -> None:
        self._forget()
        self.source.go_on(step, examples)

    def state_dict(self) -> dict[str, Tensor]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._forget()
        self.source.load_state_dict(state)

    def halve_micro_batch(self) -> int | None:
        self._forget()
        return self.source.halve_micro_batch()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _make(self, step: int) -> list[BatchT]:
        made = self.source.batches(step)
        return made if self.prepare is None else [self.prepare(batch) for batch in made]

    def _forget(self) -> None:
        """Discard the prefetched batches, after the thread has stopped reading the source."""
        ahead, self._next = self._next, None
        if ahead is not None and not ahead[1].cancel():
            ahead[1].exception()  # waits; an error will be raised again when the step is requested
