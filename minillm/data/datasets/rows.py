"""Examples that are held in memory, one row each."""

from collections.abc import Sequence
from typing import Generic, TypeVar

Row = TypeVar("Row")


class MemoryRows(Generic[Row]):
    """The examples of one split; implements `loader.Examples`. Subclasses make `rows` and count `num_tokens`."""

    rows: Sequence[Row]
    num_tokens: int

    @property
    def seq_len(self) -> int:
        """Average number of tokens in an example."""
        return max(1, self.num_tokens // len(self.rows))

    @property
    def num_offsets(self) -> int:
        return 1

    def __len__(self) -> int:
        return len(self.rows)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        return window, window + 1

    def row(self, window: int, offset: int = 0) -> Row:
        return self.rows[window]
