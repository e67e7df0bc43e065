from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.data.datasets.corpus import Tokens
from minillm.data.loader import Loader, Windows, eval_batches


def stream(num_tokens: int) -> Tokens:
    """A token stream in which each id names its place."""
    return Tokens(np.arange(num_tokens, dtype=np.uint16), eos_id=num_tokens - 1)


def with_noise(rows, rng):
    """A batch that keeps the rows and the first number of each row's generator."""
    return [(row.tolist(), float(rng(i).random())) for i, row in enumerate(rows)]


def loader(num_tokens=97, seq_len=8, seed=3, global_batch=12, micro_batch=12, **ranks) -> Loader:
    windows = Windows(stream(num_tokens), seq_len)
    return Loader(windows, with_noise, seed=seed, global_batch=global_batch, micro_batch=micro_batch, **ranks)


SIZES = {"num_tokens": st.integers(2, 200), "seq_len": st.integers(1, 70), "seed": st.integers(0, 2**64)}


@settings(deadline=None)
@given(**SIZES, ranks=st.integers(1, 4), share=st.integers(1, 6), micro=st.integers(1, 7), step=st.integers(0, 99))
def test_ranks_and_micro_batches_split_one_global_batch(num_tokens, seq_len, seed, ranks, share, micro, step):
    rows = ranks * share
    (whole,) = loader(num_tokens, seq_len, seed, rows, rows).batches(step)
    loaders = [loader(num_tokens, seq_len, seed, rows, micro, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert [row for part in loaders for batch in part.batches(step) for row in batch] == whole


@settings(deadline=None)
@given(**SIZES, epoch=st.integers(0, 5))
def test_an_epoch_predicts_each_token_once_in_windows_of_full_length_but_one(num_tokens, seq_len, seed, epoch):
    epoch_long = loader(num_tokens, seq_len, seed, global_batch=-(-num_tokens // seq_len))
    rows = [row for batch in epoch_long.batches(epoch) for row, _ in batch]
    assert Counter(token for row in rows for token in row[1:]) == Counter(range(num_tokens))
    assert all(b == (a + 1) % num_tokens for row in rows for a, b in pairwise(row))
    assert sum(len(row) != seq_len + 1 for row in rows) <= 1


def test_each_epoch_visits_every_window_once_in_an_order_of_its_own_over_steps_that_straddle_epochs():
    dealt = loader(num_tokens=97, seq_len=8, global_batch=5, micro_batch=5)  # 13 windows
    rows = [row for step in range(13) for row in dealt.rows(step)]
    orders = [[row.window for row in rows if row.epoch == epoch] for epoch in range(5)]
    assert [sorted(order) for order in orders] == [list(range(13))] * 5
    assert len({tuple(order) for order in orders}) == 5
    assert len({row.start % 8 for row in rows}) > 1


def test_a_step_can_be_made_again_in_any_order_of_steps():
    there = loader()
    forward = [there.batches(step) for step in range(20)]
    assert [there.batches(step) for step in reversed(range(20))] == forward[::-1]
    assert [loader().batches(step) for step in range(20)] == forward


def test_the_seed_decides_the_order():
    assert loader(seed=3).batches(0) != loader(seed=4).batches(0)


def test_a_rows_generator_is_seeded_by_seed_step_and_global_row():
    (_, second) = loader(seed=3, micro_batch=6).batches(7)
    assert [noise for _, noise in second] == [np.random.default_rng([3, 7, row]).random() for row in range(6, 12)]


def test_rows_names_the_tokens_of_each_row():
    dealt = loader()
    (batch,) = dealt.batches(4)
    for row, (ids, _) in zip(dealt.rows(4), batch, strict=True):
        assert ids[1:] == [i % 97 for i in range(row.start, row.stop)]


def test_loading_leaves_global_randomness_alone():
    before = np.random.get_state(legacy=False)["state"]["pos"]
    loader().batches(0)
    assert np.random.get_state(legacy=False)["state"]["pos"] == before


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"train.global_batch is 12; it must be a multiple of 5"):
        loader(world_size=5)


@pytest.mark.parametrize("sizes", [{"global_batch": 0}, {"micro_batch": 0}])
def test_an_empty_batch_is_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        loader(**sizes)


def test_windows_need_two_tokens_and_a_length():
    with pytest.raises(ValueError, match="at least 2 tokens, the text has 1"):
        Windows(stream(1), 8)
    with pytest.raises(ValueError, match=r"data.seq_len must be at least 1 token, not 0"):
        Windows(stream(9), 0)


@settings(deadline=None)
@given(num_tokens=st.integers(2, 200), seq_len=st.integers(1, 70), batch=st.integers(1, 9), num_ranks=st.integers(1, 4))
def test_evaluation_predicts_each_token_once_in_order_over_all_ranks(num_tokens, seq_len, batch, num_ranks):
    windows = Windows(stream(num_tokens), seq_len)
    ranks = [list(eval_batches(windows, with_noise, batch, rank=r, world_size=num_ranks)) for r in range(num_ranks)]
    rows = sorted((row[1], row) for rank in ranks for part in rank for row, _ in part)
    assert [token for _, row in rows for token in row[1:]] == list(range(num_tokens))
    assert max(len(part) for rank in ranks for part in rank) <= batch
    counts = [len(rank) for rank in ranks]
    assert max(counts) - min(counts) <= (len(windows) < max(counts) * num_ranks)


def test_evaluation_predicts_the_first_token_from_the_eos_at_the_end():
    (batch,) = eval_batches(Windows(stream(9), 4), with_noise, 8)
    assert [row for row, _ in batch] == [[8, 0, 1, 2, 3], [3, 4, 5, 6, 7], [7, 8]]


def test_evaluation_noise_belongs_to_the_window_whatever_the_batch_and_the_ranks():
    windows = Windows(stream(90), 8)
    noise = {tuple(row): x for batch in eval_batches(windows, with_noise, 12) for row, x in batch}
    for rank in range(2):
        for batch in eval_batches(windows, with_noise, 3, rank=rank, world_size=2):
            assert all(noise[tuple(row)] == x for row, x in batch)
    assert len(set(noise.values())) == len(windows)


@pytest.mark.parametrize(("max_tokens", "num_windows"), [(None, 12), (0, 12), (24, 3), (31, 3), (1, 1), (1000, 12)])
def test_evaluation_keeps_to_a_number_of_tokens(max_tokens, num_windows):
    batches = eval_batches(Windows(stream(90), 8), with_noise, 4, max_tokens=max_tokens)
    assert sum(len(batch) for batch in batches) == num_windows
