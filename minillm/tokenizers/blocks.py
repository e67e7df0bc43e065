"""Splits long text into blocks at positions that no token crosses, so that the ids do not change.

Blocks limit the backtracking of the regular expression engine, whose stack overflows on a few hundred thousand
consecutive spaces, and they let threads share a long document.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from minillm.tokenizers.base import utf8

BLOCK = 1 << 15
"""Minimum characters in a block; the maximum is twice as many."""
TASK = 1 << 19
"""Characters that a thread takes at a time; smaller tasks would cost more than they save."""

NO_IDS = np.empty(0, np.uint32)

_CUT = re.compile(r"\S(?= )|[^\W_](?=[\s.,;!?。、])")
"""A cut is between a visible character and a space, or between a letter or digit and white space or a mark that starts
no contraction. No piece of the GPT-2, cl100k, o200k, trained-BPE or imported patterns crosses these positions, and the
look-ahead of their white-space rules is never at the end of the first block."""


def valid_blocks(text: str, size: int = BLOCK) -> Iterator[str]:
    """Consecutive parts of `text`, none longer than 2 · `size` characters; ValueError for a lone surrogate.

    If `size` characters have no valid position for a cut (a run of spaces or letters), the text is cut anyway.
    """
    utf8(text)
    start = 0
    while len(text) - start > 2 * size:
        cut = _CUT.search(text, start + size - 1, start + 2 * size)
        end = cut.end() if cut else start + 2 * size
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def tasks(parts: Iterable[str], size: int = TASK) -> Iterator[list[str]]:
    """Groups of consecutive `parts` with at least `size` characters each."""
    group: list[str] = []
    total = 0
    for part in parts:
        group.append(part)
        total += len(part)
        if total >= size:
            yield group
            group, total = [], 0
    if group:
        yield group


def map_blocks(encode: Callable[[str], NDArray[np.uint32]], texts: Sequence[str]) -> list[NDArray[np.uint32]]:
    """`encode` of each text on all cores, long ones in blocks; `encode` should release the interpreter's lock."""
    if len(texts) == 1 and len(texts[0]) <= BLOCK:
        utf8(texts[0])
        return [encode(texts[0]).copy()]  # writable, for torch.from_numpy
    parts = [list(valid_blocks(text)) for text in texts]
    flat = [block for part in parts for block in part]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ids = chain.from_iterable(pool.map(lambda group: [encode(block) for block in group], tasks(flat)))
        return [np.concatenate([NO_IDS, *islice(ids, len(part))]) for part in parts]
