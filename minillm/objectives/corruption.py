"""Which tokens to predict, and what a model reads in their place: masking as in Devlin et al. 2019, section 3.1.

Pure functions of arrays and a generator. They deviate from the published code in two ways: the number of tokens chosen
is right on average for rows of any length, where theirs is rounded and at least one; and no replacement is ever a
special token.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

NEVER = -1
"""Word number of a token that may not be chosen: a special token or padding."""


def number_words(tokens: np.ndarray, ordinary: np.ndarray, pieces: Sequence[bytes] | None) -> np.ndarray:
    """The number of the word that each token belongs to; NEVER for special tokens.

    Args:
        tokens: (T,) ids.
        ordinary: (V,) bool, True for ids that stand for text.
        pieces: the bytes of each id; None: each token is a word.
    """
    if pieces is None:
        numbers = np.arange(len(tokens))
    else:
        numbers = np.cumsum(word_starts([pieces[token] for token in tokens]))
    return np.where(ordinary[tokens], numbers, NEVER)


def word_starts(pieces: Sequence[bytes]) -> np.ndarray:
    """(T,) bool: which of the pieces of a text, one a token, begin a word; an empty one stands by itself.

    A word is a run of letters, digits, underscores and marks, with the one blank before it that many tokenizers glue to
    it; an ideograph is one by itself, as in the published code. Characters are found by the offsets of the pieces in
    the text, so that a word means the same for bytes, characters and any vocabulary.
    """
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    sizes = [len(char.encode("utf-8", "surrogateescape")) for char in text]
    apart = np.repeat([stands_apart(char) for char in text], sizes)  # (bytes,)
    begins = np.zeros(len(apart) + 1, bool)  # whether a character begins at this byte; one does after the last
    begins[np.cumsum([0, *sizes])] = True
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = np.zeros(len(pieces), bool)
    for i, (piece, end) in enumerate(zip(pieces, ends.tolist(), strict=True)):
        begin = end - len(piece)
        starts[i] |= not piece or (apart[begin] and begins[begin])
        if i + 1 < len(pieces):
            starts[i + 1] = not piece or (apart[end - 1] and begins[end])
    return starts


@cache
def stands_apart(char: str) -> bool:
    """Whether a character belongs to no word, or is one by itself; a byte that is no whole character does not."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return False
    ideograph = 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x323AF
    return ideograph or not (char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M")


def choose_tokens(words: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """(T,) bool: the tokens to predict, all of a word or none.

    Words are taken in random order until `rate` of the tokens are reached. The word that would exceed that is taken
    with the probability that makes the expected number exact.

    Args:
        words: (T,) word numbers in ascending order, NEVER where a token may not be chosen.
        rate: share of the tokens that may be chosen.
        rng: of this row.
    """
    free = words != NEVER
    if not free.any():
        return free
    _, index, sizes = np.unique(words[free], return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order]
    taken = np.zeros(len(sizes), bool)
    taken[order] = (rate * len(index) - before) / sizes[order] > rng.random()
    chosen = np.zeros(len(words), bool)
    chosen[free] = taken[index]
    return chosen


def corrupt(
    tokens: np.ndarray,
    chosen: np.ndarray,
    *,
    mask_id: int,
    mask_share: float,
    random_share: float,
    replacements: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """What the model reads: of the chosen tokens some are masked, some random, and the others as they were.

    Args:
        tokens: (T,) ids.
        chosen: (T,) bool.
        mask_id: stands for a masked token.
        mask_share, random_share: of the chosen ones, each drawn for itself.
        replacements: ids that a random token is drawn from.
        rng: of this row.
    """
    draw = rng.random(len(tokens))
    drawn = rng.choice(replacements, len(tokens))
    read = np.where(chosen & (draw < mask_share), mask_id, tokens)
    return np.where(chosen & (draw >= mask_share) & (draw < mask_share + random_share), drawn, read)
