"""Where the trainer's batches come from, and how they are made ahead: while a step is computed, a thread makes the next
one's, so that no step waits for its data.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol

from minillm.data.loader import BatchT


class BatchSource(Protocol[BatchT]):
    """All that the trainer sees of data: a step's batches, as a function of (seed, step)."""

    def batches(self, step: int) -> list[BatchT]:
        """This rank's micro-batches of a step, counted from 0; asked again, it gives the same."""
        ...

    def describe(self, step: int) -> str:
        """Names the data of a step, for the message about a bad one."""
        ...

    def examples_before(self, step: int) -> int:
        """Examples that all ranks have read before a step."""
        ...

    def go_on(self, step: int, examples: int) -> None:
        """Continue at `step` after `examples` examples, whatever the size of the global batch was so far."""
        ...

    def close(self) -> None:
        """End what makes batches ahead."""
        ...

    def halve_micro_batch(self) -> int | None:
        """Cut micro-batches in half, to need less memory: their new size, or None where they are of one row."""
        ...


class Prefetched(Generic[BatchT]):
    """A BatchSource whose next step is made in a thread. Batches are the same: a function of (seed, step).

    `prepare` is called for each batch in the thread, such as to copy it to pinned memory.
    """

    def __init__(self, source: BatchSource[BatchT], prepare: Callable[[BatchT], BatchT] | None = None) -> None:
        self.source, self.prepare = source, prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[BatchT]]] | None = None

    def batches(self, step: int) -> list[BatchT]:
        """The step's batches, which are ready if it is the next one; then those of the step after it are begun."""
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

    def halve_micro_batch(self) -> int | None:
        self._forget()
        return self.source.halve_micro_batch()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _make(self, step: int) -> list[BatchT]:
        made = self.source.batches(step)
        return made if self.prepare is None else [self.prepare(batch) for batch in made]

    def _forget(self) -> None:
        """Drop what was made ahead, once the thread no longer reads the source."""
        ahead, self._next = self._next, None
        if ahead is not None and not ahead[1].cancel():
            ahead[1].exception()  # waits; the error itself, if any, comes again where the step is asked for
