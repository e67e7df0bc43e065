"""Which tokens are chosen, and what stands in their place: rates, words, and nothing special ever."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.objectives.corruption import NEVER, choose_tokens, corrupt, number_words, word_starts

RATES = st.floats(0.01, 0.9)
SEEDS = st.integers(0, 2**32)


def within_binomial(hits: int, trials: int, share: float) -> bool:
    """Five standard deviations, and one for rounding."""
    return abs(hits - trials * share) <= 5 * math.sqrt(trials * share * (1 - share)) + 1


@settings(max_examples=25, deadline=None)
@given(rate=RATES, length=st.integers(1, 60), seed=SEEDS)
def test_the_measured_rate_of_single_tokens_is_binomial_at_most_for_any_length(rate: float, length: int, seed: int):
    rng = np.random.default_rng(seed)
    hits = [int(choose_tokens(np.arange(length), rate, rng).sum()) for _ in range(200)]
    assert within_binomial(sum(hits), 200 * length, rate)
    assert max(hits) - min(hits) <= 1, "rows of one length have as many targets"


@settings(max_examples=25, deadline=None)
@given(rate=RATES, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=20), seed=SEEDS)
def test_whole_words_are_chosen_at_the_same_rate(rate: float, sizes: list[int], seed: int):
    rng = np.random.default_rng(seed)
    words = np.repeat(np.arange(len(sizes)), sizes)
    hits = 0
    for _ in range(300):
        chosen = choose_tokens(words, rate, rng)
        hits += int(chosen.sum())
        assert all(len(set(chosen[words == word])) == 1 for word in range(len(sizes)))
    assert abs(hits - 300 * len(words) * rate) <= 5 * math.sqrt(300) * max(sizes) / 2 + 1


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, mask_share=st.floats(0, 1), part=st.floats(0, 1))
def test_chosen_tokens_are_split_according_to_the_settings(seed: int, mask_share: float, part: float):
    rng = np.random.default_rng(seed)
    random_share = (1 - mask_share) * part
    tokens, chosen, replacements = np.zeros(4000, np.int64), np.arange(4000) % 4 > 0, np.array([5, 6])
    read = corrupt(
        tokens,
        chosen,
        mask_id=9,
        mask_share=mask_share,
        random_share=random_share,
        replacements=replacements,
        rng=rng,
    )
    assert (read[~chosen] == 0).all(), "what is not chosen is read as it is"
    assert set(read) <= {0, 5, 6, 9}
    assert within_binomial(int((read == 9).sum()), 3000, mask_share)
    assert within_binomial(int(np.isin(read, replacements).sum()), 3000, random_share)


def test_no_token_is_chosen_if_all_are_special():
    assert not choose_tokens(np.full(5, NEVER), 0.9, np.random.default_rng(0)).any()
    assert choose_tokens(np.empty(0, np.int64), 0.5, np.random.default_rng(0)).shape == (0,)


PIECES = [b" the", b" mask", b"ing", b",", b" ", b"a", b"_b", "ü".encode()[:1], "ü".encode()[1:], b".\n", b"(x", b""]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([0, 1, 2, 3, 0], [0, 1, 1, 2, 3]),  # " the masking, the"
        ([5, 4, 5, 6], [0, 1, 2, 2]),  # "a a_b" in single bytes
        ([5, 7, 8, 2], [0, 0, 0, 0]),  # a character in two bytes is inside its word
        ([9, 5, 10, 5, 3, 3], [0, 1, 2, 2, 3, 4]),  # ".\na(xa,,"
        ([5, 11, 2], [0, -1, 2]),  # a special token ends a word, and is none
    ],
)
def test_words_are_found_from_bytes_alone(ids: list[int], words: list[int]):
    ordinary = np.array([piece != b"" for piece in PIECES])
    found = number_words(np.array(ids), ordinary, PIECES)
    first = found[found != NEVER][0]
    assert [n - first if n != NEVER else NEVER for n in found.tolist()] == words


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("naïve café", ["naïve", " ", "café"]),
        ("nai\u0308ve", ["nai\u0308ve"]),
        ("hello—“world”…", ["hello", "—", "“", "world", "”", "…"]),
        ("我喜欢。ok", ["我", "喜", "欢", "。", "ok"]),
        ("привет мир", ["привет", " ", "мир"]),
    ],
)
def test_words_do_not_depend_on_how_bytes_are_split_into_tokens(text: str, words: list[str], cut: int):
    data = text.encode("utf-8")
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
    starts = word_starts(pieces)
    bounds = np.cumsum([0, *(len(word.encode("utf-8")) for word in words)])
    assert starts[0] == (words[0] == "我")  # a letter goes on with a word that a row may begin inside
    for i in range(1, len(pieces)):  # a token begins a word where one begins at its first byte
        assert starts[i] == (i * cut in bounds)


def test_an_incomplete_character_at_the_edge_of_a_row_belongs_to_one_word():
    data = "ü我".encode()
    assert word_starts([data[1:2], b"a", data[2:3], data[3:4]]).tolist() == [False, False, False, False]
