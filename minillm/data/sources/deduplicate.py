"""Removes near-duplicate paragraphs.

Texts are compared by their shingles, all sequences of eight consecutive words (Broder 1997, "On the resemblance and
containment of documents"). The hashes of all shingles are kept instead of a sample, so the comparison is exact up to
32-bit hash collisions, and suited to a few megabytes of text.
"""

import re
import zlib
from collections.abc import Iterable, Iterator

SHINGLE_WORDS = 8
MAX_SEEN = 0.5
"""Maximum fraction of a paragraph's shingles that may have occurred before."""

_BLANK_LINES = re.compile(r"\n\s*\n")


def shingles(paragraph: str) -> set[int]:
    """Hashes of all sequences of SHINGLE_WORDS words; empty for a shorter paragraph."""
    words = paragraph.split()
    runs = (words[i : i + SHINGLE_WORDS] for i in range(len(words) - SHINGLE_WORDS + 1))
    return {zlib.crc32(" ".join(run).encode()) for run in runs}


def deduplicate(documents: Iterable[str]) -> Iterator[str]:
    """Drops paragraphs that mostly repeat earlier paragraphs of any document, and documents without a new paragraph.

    A paragraph too short for a shingle, such as a heading, is kept if the paragraph before it is.
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
