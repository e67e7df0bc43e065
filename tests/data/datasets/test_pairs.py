"""Pairs of passages: half follow, the others come from elsewhere, and nothing crosses a document's end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minillm.data.datasets.corpus import Tokens
from minillm.data.datasets.pairs import Pairs
from minillm.data.loader import Loader

EOS = 9999


def stream(*lengths: int) -> Tokens:
    """Documents whose ids tell where they stand: document * 1000 + index."""
    return Tokens(np.concatenate([[*range(d * 1000, d * 1000 + n), EOS] for d, n in enumerate(lengths)]), EOS)


PAIRS = Pairs(stream(50, 1, 7, 130, 0, 64), 20)


def test_a_true_pair_is_one_stretch_of_a_document_and_a_wrong_one_is_of_two():
    for offset in range(40):
        for window in range(len(PAIRS)):
            first, second, follows = PAIRS.row(window, offset)
            assert len(first) >= 1 and len(second) >= 1 and len(first) + len(second) <= 20
            assert EOS not in first and EOS not in second
            assert (np.diff(first) == 1).all() and (np.diff(second) == 1).all()
            assert (second[0] == first[-1] + 1) if follows else (second[0] // 1000 != first[0] // 1000)


def test_half_of_the_pairs_follow():
    found = [PAIRS.row(window, offset).follows for offset in range(60) for window in range(len(PAIRS))]
    assert abs(sum(found) - len(found) / 2) <= 5 * math.sqrt(len(found)) / 2


def test_the_length_of_a_pair_does_not_tell_whether_it_follows():
    pairs = Pairs(stream(*[5] * 30, *[90] * 4), 20)
    found = [pairs.row(window, offset) for offset in range(30) for window in range(len(pairs))]
    for short in (True, False):
        follows = [pair.follows for pair in found if (len(pair.first) + len(pair.second) < 20) == short]
        assert len(follows) > 100 and abs(sum(follows) - len(follows) / 2) <= 5 * math.sqrt(len(follows)) / 2


def test_a_pair_is_a_function_of_window_and_offset_and_its_span_names_it():
    for window in range(len(PAIRS)):
        start, stop = PAIRS.span(window, 3)
        one, again = PAIRS.row(window, 3), PAIRS.row(window, 3)
        assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
        assert one.first[0] == PAIRS.tokens.slice(start, stop)[0] and stop - start <= 20


def test_offsets_reach_every_token_of_the_documents():
    seen = {t for offset in range(20) for w in range(len(PAIRS)) for t in PAIRS.tokens.slice(*PAIRS.span(w, offset))}
    assert seen == {t for d, n in ((0, 50), (2, 7), (3, 130), (5, 64)) for t in range(d * 1000, d * 1000 + n)}


def test_a_loader_deals_them_out_once_an_epoch():
    loader = Loader(PAIRS, lambda rows, rng: list(rows), seed=0, global_batch=len(PAIRS), micro_batch=3)
    assert sorted(row.window for row in loader.rows(0)) == list(range(len(PAIRS)))
    assert sum(len(batch) for batch in loader.batches(0)) == len(PAIRS)


def test_one_document_has_no_wrong_pairs_to_give():
    with pytest.raises(ValueError, match=r"objective\.next_sentence.*only 1: add documents"):
        Pairs(stream(100, 1), 20)
    with pytest.raises(ValueError, match=r"data\.seq_len"):
        Pairs(stream(100, 50), 1)
