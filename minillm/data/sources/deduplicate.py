"""Removes near-duplicate paragraphs.

Texts are compared by their shingles, all runs of eight words (Broder 1997, "On the resemblance and containment of
documents"). The hashes of all shingles are kept rather than a sample of them, so the comparison is exact up to 32-bit
hash collisions, and suited to a few megabytes of text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

SHINGLE_WORDS = 8
MAX_SEEN = 0.5
"""Share of a paragraph's shingles that may have been seen before."""

_BLANK_LINES = re.compile(r"\n\s*\n")


def shingles(paragraph: str) -> set[int]:
    """Hashes of all runs of SHINGLE_WORDS words; none for a shorter paragraph."""
    words = paragraph.split()
    runs = (words[i : i + SHINGLE_WORDS] for i in range(len(words) - SHINGLE_WORDS + 1))
    return {zlib.crc32(" ".join(run).encode()) for run in runs}


def deduplicate(documents: Iterable[str]) -> Iterator[str]:
    """The documents without paragraphs that mostly repeat earlier ones, of any document.

    A paragraph too short to have a shingle, such as a heading or a line of code, is kept or dropped with the paragraph
    before it. A document in which no paragraph is new is dropped.
    """
    seen: set[int] = set()
    for document in documents:
        kept: list[str] = []
        keep, any_new = True, False
        for paragraph in _BLANK_LINES.split(document):
            if new := shingles(paragraph):
                keep = len(new & seen) <= MAX_SEEN * len(new)
                any_new |= keep
                seen |= new if keep else set()
            if keep:
                kept.append(paragraph)
        if any_new:
            yield "\n\n".join(kept)
