"""Cuts long text where every pattern of this package ends a piece anyway, so that the ids stay those of the whole.

Blocks serve two ends. They bound the backtracking of the regular expression engine, which gives up with a stack
overflow on some hundred thousand blanks in a row, and they let threads share one long document.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from minillm.tokenizers.base import utf8

BLOCK = 1 << 15
"""Characters after which a cut is looked for; a block has at most twice as many."""
TASK = 1 << 19
"""Characters that one thread takes at a time: handing over short documents one by one would cost more than it gains."""

NO_IDS = np.empty(0, np.uint32)

_CUT = re.compile(r"\S(?= )|[^\W_](?=[\s.,;!?。、])")
"""A cut follows a visible character before a space, or a letter or digit before white space or a mark that no
contraction starts with. No piece of the GPT-2, cl100k, o200k, trained-BPE or imported patterns spans these, and the
look-ahead of their white space rules is never at the end of the first block."""


def valid_blocks(text: str, size: int = BLOCK) -> Iterator[str]:
    """Consecutive parts of `text`, none longer than 2 · `size` characters; ValueError for a lone surrogate.

    Where `size` characters offer no place to cut (a run of blanks or letters that long), the cut falls regardless.
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
    """Groups consecutive `parts` until a group reaches `size` characters."""
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
    """`encode` of each text, long ones in blocks, on all cores: an encoder that releases the interpreter's lock."""
    if len(texts) == 1 and len(texts[0]) <= BLOCK:
        utf8(texts[0])
        return [encode(texts[0]).copy()]  # writable, as torch.from_numpy asks
    parts = [list(valid_blocks(text)) for text in texts]
    flat = [block for part in parts for block in part]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ids = chain.from_iterable(pool.map(lambda group: [encode(block) for block in group], tasks(flat)))
        return [np.concatenate([NO_IDS, *islice(ids, len(part))]) for part in parts]
