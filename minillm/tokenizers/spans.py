"""Which characters of a text each token stands for."""

import numpy as np
from numpy.typing import NDArray


def spans_of_bytes(text: str, num_bytes: NDArray[np.int32]) -> NDArray[np.int64]:
    """(N, 2) [start, stop) characters of N tokens that together are the bytes of `text`, `num_bytes` (N) each.

    Tokens that share a character, each with some of its bytes, all get it.
    """
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + (points >= 1 << 7) + (points >= 1 << 11) + (points >= 1 << 16)
    character = np.repeat(np.arange(len(points)), widths)
    stops = num_bytes.astype(np.int64).cumsum()
    if not len(stops):
        return np.empty((0, 2), np.int64)
    return np.stack([character[stops - num_bytes], character[stops - 1] + 1], axis=1)


def overlapping(spans: NDArray[np.int64], start: int, stop: int) -> tuple[int, int] | None:
    """The first and the last of the tokens `spans` (N, 2) that share a character with [start, stop); None: none."""
    inside = np.flatnonzero((spans[:, 0] < stop) & (spans[:, 1] > start))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def without_blanks(text: str, start: int, stop: int) -> tuple[int, int]:
    """[start, stop) without white space at its ends, which many tokens include."""
    part = text[start:stop]
    return start + len(part) - len(part.lstrip()), stop - (len(part) - len(part.rstrip()))
