"""ROUGE-L (Lin 2004): similarity of two texts, measured by their longest common subsequence of words.

Words are lowercase runs of letters and digits, without stemming. For ASCII text this equals the usual implementation,
which drops all other letters.
"""

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def rouge_l(reference: str, candidate: str) -> float:
    """F1 of the longest common subsequence, 0 to 1; if a text has no words, 1 for equal texts and 0 otherwise."""
    a, b = _words(reference), _words(candidate)
    if not a or not b:
        return float(reference.strip() == candidate.strip())
    return 2 * lcs_length(a, b) / (len(a) + len(b))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(b) + 1)  # best[j]: for the words of `a` so far and the first j of `b`
    for word in a:
        previous = best[:]
        for j, candidate in enumerate(b, 1):
            best[j] = previous[j - 1] + 1 if word == candidate else max(previous[j], best[j - 1])
    return best[-1]
