"""How near a written text comes to the wanted one: ROUGE-L (Lin 2004), by the longest common subsequence of words.

Words are runs of letters and digits in lower case, without a stemmer: for ASCII as the usual implementation has them,
which knows no other letters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def rouge_l(wanted: str, written: str) -> float:
    """F1 of the longest common subsequence, 0..1; where one has no words, whether the texts are equal."""
    one, other = words(wanted), words(written)
    if not one or not other:
        return float(wanted.strip() == written.strip())
    return 2 * common_subsequence(one, other) / (len(one) + len(other))


def words(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text.lower())


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest sequence that is left of both when some words are struck out."""
    best = [0] * (len(other) + 1)  # best[j]: of the words of `one` so far and the first j of `other`
    for word in one:
        before = best[:]
        for j, candidate in enumerate(other, 1):
            best[j] = before[j - 1] + 1 if word == candidate else max(before[j], best[j - 1])
    return best[-1]
