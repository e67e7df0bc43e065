"""Near-duplicates: text that says again what an earlier text said.

Two texts are compared by their shingles, the runs of eight words in them (Broder 1997, "On the resemblance and
containment of documents"). The hashes of all shingles are kept rather than a sample of them, so this is exact up to
collisions of 32 bits, and fit for some megabytes of text.
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
    """The documents without the paragraphs that mostly stood in earlier ones, or earlier in the same one.

    Too short a paragraph to have a shingle, such as a heading or a line of code, shares the fate of the one before it.
    A document that keeps no paragraph of its own is dropped.
    """
    seen: set[int] = set()
    for document in documents:
        kept: list[str] = []
        keep, own = True, False
        for paragraph in _BLANK_LINES.split(document):
            if new := shingles(paragraph):
                keep = len(new & seen) <= MAX_SEEN * len(new)
                own |= keep
                seen |= new if keep else set()
            if keep:
                kept.append(paragraph)
        if own:
            yield "\n\n".join(kept)
