"""Span corruption: nothing is lost, lengths and rates are the reference's, and every row has its own gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.layout import Pair
from minillm.objectives.span import SpanCorruption, SpanNoise, corrupt, partition

PAD, EOS, VOCAB = 200, 201, 100
SENTINELS = tuple(range(300, 400))
NOISES = st.builds(
    SpanNoise, density=st.floats(0.01, 0.99), mean_length=st.floats(1, 20), max_spans=st.integers(1, 100)
)


def rebuilt(pair: Pair) -> list[int]:
    """The source's text: each sentinel replaced by what the target says after it."""
    assert pair.source[-1] == pair.target[-1] == EOS
    spans: dict[int, list[int]] = {}
    for token in pair.target[:-1].tolist():
        if token in SENTINELS:
            spans[token] = []
        else:
            list(spans.values())[-1].append(token)
    return [t for token in pair.source[:-1].tolist() for t in spans.pop(token, [token])]


@settings(max_examples=40, deadline=None)
@given(length=st.integers(0, 600), seed=st.integers(0, 2**32), noise=NOISES)
def test_input_and_target_reconstruct_texts_of_any_length(length: int, seed: int, noise: SpanNoise):
    rng = np.random.default_rng(seed)
    text = rng.integers(0, VOCAB, length)
    pair = corrupt(text, noise.mask(length, rng), SENTINELS, EOS)
    assert rebuilt(pair) == text.tolist()
    assert (len(pair.source), len(pair.target)) == noise.lengths(length)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 600), seed=st.integers(0, 2**32), noise=NOISES)
def test_kept_and_dropped_spans_alternate_with_the_computed_counts(length: int, seed: int, noise: SpanNoise):
    mask = noise.mask(length, np.random.default_rng(seed))
    num_noise, num_spans = noise.counts(length)
    assert not mask[0] and mask[-1] and mask.sum() == num_noise
    assert (np.diff(mask.astype(int)) == 1).sum() == num_spans <= noise.max_spans


@settings(max_examples=40, deadline=None)
@given(input_length=st.integers(3, 300), density=st.floats(0.01, 0.4), mean_length=st.floats(1, 20))
def test_a_full_window_fills_the_encoder_exactly(input_length: int, density: float, mean_length: float):
    noise = SpanNoise(density, mean_length)
    raw = noise.raw_length(input_length)
    assert noise.lengths(raw)[0] == input_length
    assert noise.lengths(raw + 1)[0] > input_length


@pytest.mark.parametrize(
    ("input_length", "raw_length", "target_length"),
    # compute_input_and_target_lengths of the T5 code, with its defaults
    [(512, 568, 114), (256, 284, 58), (128, 141, 29), (1024, 1137, 229)],
)
def test_lengths_equal_those_of_the_reference_code(input_length: int, raw_length: int, target_length: int):
    noise = SpanNoise()
    assert noise.raw_length(input_length) == raw_length
    assert noise.lengths(raw_length) == (input_length, target_length)


def test_a_text_that_needs_more_spans_than_sentinels_gets_longer_spans():
    noise = SpanNoise(0.5, 1.0)
    assert noise.counts(1000) == (500, 100)
    rng = np.random.default_rng(0)
    text = rng.integers(0, VOCAB, 1000)
    assert rebuilt(corrupt(text, noise.mask(1000, rng), SENTINELS, EOS)) == text.tolist()


@settings(max_examples=40, deadline=None)
@given(total=st.integers(1, 200), seed=st.integers(0, 1000), data=st.data())
def test_a_partition_has_parts_of_at_least_one_with_the_right_sum(total: int, seed: int, data: st.DataObject):
    parts = data.draw(st.integers(1, total))
    lengths = partition(total, parts, np.random.default_rng(seed))
    assert len(lengths) == parts and lengths.sum() == total and lengths.min() >= 1


def test_every_partition_is_equally_likely():
    rng = np.random.default_rng(0)
    found = [tuple(partition(5, 3, rng).tolist()) for _ in range(6000)]
    counts = np.array([found.count(one) for one in set(found)])
    assert len(counts) == 6 and abs(counts - 1000).max() < 5 * np.sqrt(1000 * 5 / 6)


def objective(**settings: object) -> SpanCorruption:
    return SpanCorruption(**{"pad_id": PAD, "eos_id": EOS, "sentinels": SENTINELS, **settings})  # type: ignore[arg-type]


def rows(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, VOCAB, n + 1) for n in lengths]


def numbered(first: int = 0):
    return lambda i: np.random.default_rng([7, 3, first + i])


def test_full_windows_make_a_batch_without_padding():
    raw = SpanNoise().raw_length(64)
    batch = objective().collate(rows(raw, raw, raw), numbered())
    assert set(batch.inputs) == {"encoder_tokens", "decoder_tokens"}
    assert batch.inputs["encoder_tokens"].shape == (3, 64)
    assert (batch.labels["lm"] != IGNORE_INDEX).all() and batch.counts == {"lm": batch.labels["lm"].numel()}


def test_the_corruption_of_a_row_does_not_depend_on_the_micro_batch():
    examples = rows(60, 60, 60, 60)
    whole = objective().collate(examples, numbered())
    second = objective().collate(examples[2:], numbered(2))
    for name in whole.inputs:
        assert whole.inputs[name][2:].equal(second.inputs[name])
    assert not whole.inputs["decoder_tokens"][0].equal(whole.inputs["decoder_tokens"][1])


def test_the_decoder_input_is_the_shifted_target_and_padding_has_no_loss():
    batch = objective().collate(rows(80, 9, 1), numbered())
    labels, read = batch.labels["lm"], batch.inputs["decoder_tokens"]
    assert (read[:, 0] == PAD).all()
    for i, length in enumerate([80, 9, 1]):
        sizes = SpanNoise().lengths(length)
        assert labels[i, sizes[1] - 1] == EOS and (labels[i, sizes[1] :] == IGNORE_INDEX).all()
        assert read[i, 1 : sizes[1]].equal(labels[i, : sizes[1] - 1])
        assert batch.inputs["encoder_valid"][i].sum() == sizes[0]
    assert batch.counts["lm"] == (labels != IGNORE_INDEX).sum()


def test_the_token_before_the_window_is_skipped():
    row = np.arange(41)
    pair = objective().collate([row], numbered())
    source, target = pair.inputs["encoder_tokens"][0].numpy(), pair.labels["lm"][0].numpy()
    assert rebuilt(Pair(source, target)) == row[1:].tolist()
