"""Pairs of passages for next-sentence prediction (Devlin et al. 2019, section 3.1).

As in the published code, a passage is a span of tokens, not a sentence. A window of a document is cut in two at a
random position in its middle half. In half of the examples, the second part is replaced by a random span of another
document. It has the same length, so that the length does not reveal the answer, or less if no other document is long
enough.
"""

from typing import NamedTuple

import numpy as np

from minillm.data.loader import Tokens

PAIRS = 3
"""Third word of the seed of a pair; makes it different from the loader's seeds."""


class PassagePair(NamedTuple):
    """Two passages, (A,) and (B,) int64; `follows` if the second directly follows the first in the text."""

    first: np.ndarray
    second: np.ndarray
    follows: bool


class Pairs:
    """One pair for each window of `seq_len` tokens in a document of at least two tokens.

    Shorter documents give shorter pairs. The offset shifts the windows, so that every token is used in some epoch.
    """

    def __init__(self, tokens: Tokens, seq_len: int) -> None:
        if seq_len < 2:
            raise ValueError(f"data.seq_len leaves {seq_len} tokens for two passages; raise it")
        starts = tokens.document_starts
        stops = np.append(starts[1:], tokens.num_tokens) - 1  # without EOS
        long_enough = stops - starts >= 2
        if long_enough.sum() < 2:
            raise ValueError(
                "objective.next_sentence takes unrelated passages from other documents, but a split of this text has "
                f"only {long_enough.sum()}: add documents, or set objective.next_sentence to false"
            )
        self.tokens, self.seq_len = tokens, seq_len
        self._starts, self._stops = starts[long_enough], stops[long_enough]
        windows = np.maximum(1, (self._stops - self._starts) // seq_len)
        self._ends = np.cumsum(windows)
        self._by_size = np.argsort(self._stops - self._starts, kind="stable")
        self._sizes = (self._stops - self._starts)[self._by_size]

    @property
    def num_offsets(self) -> int:
        return self.tokens.num_tokens

    def __len__(self) -> int:
        return int(self._ends[-1])

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        """[start, stop) of the window in the token stream."""
        document = self._document(window)
        start, stop = int(self._starts[document]), int(self._stops[document])
        earlier = int(self._ends[document - 1]) if document else 0
        spare = max(0, stop - start - (int(self._ends[document]) - earlier) * self.seq_len)
        begin = start + (window - earlier) * self.seq_len + offset % (spare + 1)
        return begin, min(begin + self.seq_len, stop)

    def row(self, window: int, offset: int = 0) -> PassagePair:
        rng = np.random.default_rng([offset, window, PAIRS])
        begin, end = self.span(window, offset)
        quarter = (end - begin) // 4
        cut = int(rng.integers(max(begin + 1, begin + quarter), min(end - 1, end - quarter) + 1))
        follows = bool(rng.random() < 0.5)
        second = self._read(cut, end) if follows else self._elsewhere(self._document(window), end - cut, rng)
        return PassagePair(self._read(begin, cut), second, follows)

    def _elsewhere(self, document: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """`length` tokens of another document; fewer if all others are shorter."""
        first = int(np.searchsorted(self._sizes, length))  # the documents from here on are long enough
        if first == len(self._sizes) - 1:
            first = 0
        other = document
        while other == document:
            other = int(self._by_size[rng.integers(first, len(self._by_size))])
        start, stop = int(self._starts[other]), int(self._stops[other])
        begin = int(rng.integers(start, max(start, stop - length) + 1))
        return self._read(begin, min(begin + length, stop))

    def _document(self, window: int) -> int:
        return int(np.searchsorted(self._ends, window, side="right"))

    def _read(self, start: int, stop: int) -> np.ndarray:
        return self.tokens.slice(start, stop).astype(np.int64)
