"""Which tokens to predict, and what a model reads in their place: masking as in Devlin et al. 2019, section 3.1.

Pure functions of arrays and a generator. They deviate from the published code in two ways: the number of tokens chosen
is right on average for rows of any length, where theirs is rounded and at least one; and no replacement is ever a
special token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NEVER = -1
"""Word number of a token that may not be chosen: a special token or padding."""


class WordEdges(NamedTuple):
    """Where words begin and end, by the bytes of each id. (V,) bool each."""

    opens: np.ndarray
    """The id begins a word: its first byte is blank or punctuation."""
    closes: np.ndarray
    """The id ends a word: its last byte is blank or punctuation."""


def word_edges(pieces: Sequence[bytes]) -> WordEdges:
    """The edges for a vocabulary of these bytes, one entry an id; a special id, which has none, stands by itself.

    A word is a run of letters, digits, underscores and bytes of characters beyond ASCII, with the one blank before it
    that many tokenizers glue to it. So it needs no offsets, and means the same for bytes, characters and BPE.
    """

    def apart(byte: bytes) -> bool:
        return not (byte.isalnum() or byte == b"_" or byte >= b"\x80")

    opens = np.array([apart(piece[:1]) for piece in pieces])
    return WordEdges(opens, np.array([apart(piece[-1:]) for piece in pieces]))


def number_words(tokens: np.ndarray, ordinary: np.ndarray, edges: WordEdges | None) -> np.ndarray:
    """The number of the word that each token belongs to; NEVER for special tokens.

    Args:
        tokens: (T,) ids.
        ordinary: (V,) bool, True for ids that stand for text.
        edges: None: each token is a word.
    """
    if edges is None:
        numbers = np.arange(len(tokens))
    else:
        starts = edges.opens[tokens]
        starts[1:] |= edges.closes[tokens[:-1]]
        numbers = np.cumsum(starts)
    return np.where(ordinary[tokens], numbers, NEVER)


def choose(words: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
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
