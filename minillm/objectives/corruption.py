"""Masking for masked language modeling (Devlin et al. 2019, section 3.1): pure functions of arrays and a generator.

They deviate from the published code in two ways. The expected number of chosen tokens is exact for rows of any length;
the published code rounds it and chooses at least one. Replacements are never special tokens.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

NEVER = -1
"""Word number of special tokens and padding, which are never chosen."""


def number_words(tokens: np.ndarray, ordinary: np.ndarray, pieces: Sequence[bytes] | None) -> np.ndarray:
    """(T,) the word number of each of `tokens` (T,); NEVER for special tokens.

    `ordinary` (V,) is True for ids of text. `pieces` are the bytes of each id; None: each token is a word.
    """
    if pieces is None:
        numbers = np.arange(len(tokens))
    else:
        numbers = np.cumsum(word_starts([pieces[token] for token in tokens]))
    return np.where(ordinary[tokens], numbers, NEVER)


def word_starts(pieces: Sequence[bytes]) -> np.ndarray:
    """(T,) bool: whether each token of a text, given as bytes, begins a word. An empty token is a word.

    A word is a run of letters, digits, underscores and marks, with the space before it if that is in the same token.
    Each ideograph is a word, as in the published code. Words depend on the text's characters alone, so they are the
    same for bytes, characters and any vocabulary.
    """
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    sizes = [len(char.encode("utf-8", "surrogateescape")) for char in text]
    apart = np.repeat([stands_apart(char) for char in text], sizes)  # (bytes,)
    begins = np.zeros(len(apart) + 1, bool)  # whether a character begins at this byte, or the text ends
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
    """Whether a character is outside words or is a word by itself; False for a byte of an incomplete character."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return False
    ideograph = 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x323AF
    return ideograph or not (char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M")


def choose_tokens(words: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """(T,) bool: the tokens to predict, for each word all of its tokens or none.

    `words` (T,) are word numbers in ascending order, or NEVER. Words are chosen in random order until `rate` of the
    eligible tokens is reached. The word that would exceed it is chosen with the probability that makes the expected
    number exact.
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
    """(T,) the model's input: of the `chosen` (T,) tokens, `mask_share` become `mask_id`, `random_share` become one of
    `replacements`, and the rest stay. Each token is drawn independently.
    """
    draw = rng.random(len(tokens))
    drawn = rng.choice(replacements, len(tokens))
    read = np.where(chosen & (draw < mask_share), mask_id, tokens)
    return np.where(chosen & (draw >= mask_share) & (draw < mask_share + random_share), drawn, read)
