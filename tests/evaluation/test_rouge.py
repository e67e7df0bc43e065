"""ROUGE-L, against values worked out by hand and a search through all subsequences."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.evaluation.rouge import lcs_length, rouge_l

WORDS = st.lists(st.sampled_from("abc"), max_size=6)


@pytest.mark.parametrize(
    ("wanted", "written", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004, section 3.1
        ("police killed the gunman", "the gunman kill police", 2 / 4),
        ("Return the name.", "return THE name", 1.0),
        ("one two", "", 0.0),
        ("", "", 1.0),
        ("...", "!", 0.0),
        ("привет мир", "совсем другое", 0.0),
        ("naïve café", "na ve caf", 0.0),
        ("snake_case", "snake case", 1.0),
        ("a b c d", "a c", 2 * 2 / 6),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(wanted: str, written: str, score: float):
    assert rouge_l(wanted, written) == pytest.approx(score)
    assert rouge_l(written, wanted) == pytest.approx(score)


@settings(max_examples=60, deadline=None)
@given(one=WORDS, other=WORDS)
def test_the_common_subsequence_is_the_longest_of_all(one: list[str], other: list[str]):
    def all_of(words: list[str]) -> set[tuple[str, ...]]:
        return {chosen for n in range(len(words) + 1) for chosen in combinations(words, n)}

    assert lcs_length(one, other) == max(map(len, all_of(one) & all_of(other)))
