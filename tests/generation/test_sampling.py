import math
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minillm.generation.config import SampleConfig
from minillm.generation.sampling import (
    BLOCK,
    Sampler,
    draw,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    scale_temperature,
    uniform_columns,
)

# Few distinct values, so that ties are the rule.
rows = st.lists(st.integers(-4, 4).map(lambda n: n / 2) | st.just(-math.inf), min_size=1, max_size=12).filter(
    lambda row: max(row) > -math.inf
)
fast = settings(
    deadline=None, max_examples=150, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def uniforms_of(seed, samples, num_draws):
    """(B, num_draws)."""
    return torch.cat([*islice(uniform_columns(seed, samples, torch.device("cpu")), num_draws)], 1)


def kept(logits):
    return (logits > -math.inf)[0].tolist()


@fast
@given(rows, st.integers(1, 14))
def test_top_k_keeps_exactly_k_also_with_ties_and_no_token_that_a_dropped_one_beats(row, k):
    filtered = keep_top_k(torch.tensor([row]), k=k)
    chosen = [value for value, keep in zip(row, kept(filtered), strict=True) if keep]
    possible = sorted((value for value in row if value > -math.inf), reverse=True)
    assert sorted(chosen, reverse=True) == possible[:k]
    assert filtered[0, kept(filtered)].tolist() == chosen


@fast
@given(rows, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_of_likeliest_tokens_that_reaches_p(row, p):
    probabilities = torch.tensor(row, dtype=torch.float64).softmax(-1).tolist()
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    chosen = kept(keep_top_p(torch.tensor([row]), p=p))
    number = sum(chosen)
    assert sorted(order[:number]) == [i for i, keep in enumerate(chosen) if keep]
    mass = sum(probabilities[i] for i in order[:number])
    assert number >= 1
    assert mass >= p - 1e-6
    assert mass - probabilities[order[number - 1]] < p + 1e-6


def sort_everything(logits, *, p):
    """Top-p as it is defined."""
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return logits.masked_fill(torch.empty_like(ids, dtype=torch.bool).scatter_(-1, ids, before >= p), -math.inf)


def difficult_logits(vocab_size):
    """(8, V): rows that are decided by few tokens, by many, and by ties."""
    random = torch.Generator().manual_seed(vocab_size)
    normal = torch.randn(4, vocab_size, generator=random)
    peak = torch.zeros(vocab_size).index_fill_(0, torch.tensor(vocab_size // 2), 80.0)
    forbidden = (
        normal[3]
        .masked_fill(torch.rand(vocab_size, generator=random) < 0.9, -math.inf)
        .index_fill_(0, torch.tensor([0]), 1.0)
    )
    rows = [normal[0] * 3, normal[1] * 0.01, (normal[2] * 2).round(), peak, torch.zeros(vocab_size)]
    rows += [torch.linspace(5, 0, vocab_size), forbidden, (torch.arange(vocab_size) % 3).float() * 9]
    return torch.stack(rows)


@pytest.mark.parametrize("vocab_size", [1, 5, 300, 5000])
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.3, 0.77, 0.95, 0.999, 0.9999999])
def test_top_p_keeps_the_tokens_that_sorting_the_whole_vocabulary_keeps(vocab_size, p):
    logits = difficult_logits(vocab_size)
    assert torch.equal(keep_top_p(logits, p=p), sort_everything(logits, p=p))
    for row in logits.split(1):
        assert torch.equal(keep_top_p(row, p=p), sort_everything(row, p=p))


@fast
@given(rows, st.floats(0.01, 0.99), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_top_p_does_not_depend_on_how_many_tokens_it_sorts_first(row, p, numbers):
    logits = torch.tensor([row])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("minillm.generation.sampling.NUCLEUS", numbers)
        few = keep_top_p(logits, p=p)
    assert torch.equal(few, sort_everything(logits, p=p))


def test_top_p_sorts_few_tokens_of_a_large_vocabulary(monkeypatch):
    sorted_widths, real = [], torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda x, *a, **k: sorted_widths.append(x.size(-1)) or real(x, *a, **k))
    keep_top_p(difficult_logits(5000)[:1], p=0.9)
    assert sorted_widths and max(sorted_widths) < 5000


@fast
@given(rows, st.floats(0.01, 1.0))
def test_min_p_keeps_tokens_at_least_that_fraction_as_likely_as_the_likeliest(row, min_p):
    best = max(row)
    chosen = kept(keep_min_p(torch.tensor([row]), min_p=min_p))
    for value, keep in zip(row, chosen, strict=True):
        ratio = math.exp(value - best)
        if abs(ratio - min_p) > 1e-6:
            assert keep == (ratio > min_p)
    assert chosen[row.index(best)]


@fast
@given(
    rows,
    st.builds(
        SampleConfig,
        temperature=st.sampled_from([1e-300, 1e-40, 0.1, 1.0, 1e30]),
        top_k=st.integers(0, 5),
        top_p=st.sampled_from([1e-9, 0.5, 1.0]),
        min_p=st.sampled_from([0.0, 0.3, 1.0]),
    ),
)
def test_all_filters_together_leave_a_distribution_that_holds_the_likeliest_token(row, config):
    logits = torch.tensor(row)
    probabilities = filter_logits(logits[None], config).softmax(-1)[0]
    assert math.isclose(float(probabilities.sum()), 1, rel_tol=1e-5)
    assert probabilities[logits == max(row)].any()
    assert not probabilities[logits == -math.inf].any()


def test_without_filters_every_token_stays_however_unlikely():
    logits = torch.tensor([[0.0, -80.0, -90.0]])
    assert torch.equal(filter_logits(logits, SampleConfig(temperature=1)), logits)


def test_filters_treat_every_row_by_itself():
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    config = SampleConfig(top_k=6, top_p=0.8, min_p=0.05)
    together = filter_logits(logits, config)
    assert torch.equal(together, torch.cat([filter_logits(row[None], config) for row in logits]))


def test_filters_leave_their_input_as_it_was():
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    filter_logits(logits, SampleConfig(top_k=3, top_p=0.5, min_p=0.1))
    penalize_repetition(logits, torch.ones(2, 9, dtype=torch.bool), penalty=2)
    assert torch.equal(logits, before)


def test_temperature_divides_the_logits():
    logits = torch.tensor([[1.0, 3.0, -2.0]])
    expected = (logits / 0.7).softmax(-1)
    torch.testing.assert_close(scale_temperature(logits, temperature=0.7).softmax(-1), expected)


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens():
    seen = torch.tensor([[True, True, False, False]])
    penalized = penalize_repetition(torch.tensor([[2.0, -2.0, 2.0, -2.0]]), seen, penalty=4)
    assert penalized.tolist() == [[0.5, -8.0, 2.0, -2.0]]


@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(temperature=1),
        SampleConfig(temperature=0.5),
        SampleConfig(temperature=1, top_k=4),
        SampleConfig(temperature=1, top_p=0.7),
        SampleConfig(temperature=1, min_p=0.2),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "min_p"],
)
def test_choices_are_distributed_as_the_filtered_probabilities(config):
    num_draws = 20_000
    logits = filter_logits(torch.tensor([[0.3, -1.0, 1.2, -math.inf, 0.0, 0.9, -2.0]]), config)
    probabilities = logits.double().softmax(-1)[0]
    uniforms = uniforms_of(0, [0], num_draws).T  # (num_draws, 1)
    counts = draw(logits.expand(num_draws, -1), uniforms).flatten().bincount(minlength=7).double()
    expected, possible = num_draws * probabilities, probabilities > 0
    assert not counts[~possible].any()
    chi_square = ((counts - expected).square() / expected)[possible].sum()
    # 99.9 % quantiles of the chi-square distribution, by degrees of freedom.
    assert chi_square < {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52}[int(possible.sum()) - 1]


def test_the_smallest_and_the_largest_uniform_number_never_draw_a_forbidden_token():
    logits = torch.tensor([[-math.inf, 0.5, -math.inf, 1.0, -math.inf]])
    largest = 1 - 2.0**-24
    assert draw(logits, torch.tensor([[0.0]])).item() == 1
    assert draw(logits, torch.tensor([[largest]])).item() == 3


def test_a_sum_that_rounds_upwards_at_a_forbidden_token_does_not_draw_it(monkeypatch):
    rising = lambda p, dim: torch.linspace(0.1, 1, p.size(-1)).repeat(len(p), 1)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "cumsum", rising)
    ids = draw(torch.tensor([[-math.inf, 1.0, -math.inf]]).expand(5, -1), torch.linspace(0, 0.99, 5)[:, None])
    assert set(ids.flatten().tolist()) == {1}


def test_random_numbers_depend_on_the_seed_and_the_sample_number_alone():
    table = uniforms_of(7, [0, 1, 2], 5)
    assert torch.equal(table[2:], uniforms_of(7, [2], 5))
    assert len(set(table.flatten().tolist())) == 15
    assert not torch.equal(table[1], uniforms_of(8, [0], 5)[0])
    assert table.dtype == torch.float32
    assert 0 <= table.min() <= table.max() < 1


@pytest.mark.parametrize("block", [1, 7, BLOCK])
def test_random_numbers_drawn_in_blocks_are_those_drawn_at_once(block, monkeypatch):
    monkeypatch.setattr("minillm.generation.sampling.BLOCK", block)
    at_once = [np.random.default_rng((7, sample)).random(3 * BLOCK + 1, dtype=np.float32) for sample in (0, 5)]
    assert uniforms_of(7, [0, 5], 3 * BLOCK + 1).tolist() == np.stack(at_once).tolist()


def sampler(config, *, texts=((0,),), vocab_size=4, **more):
    return Sampler(config, texts, range(len(texts)), torch.empty(vocab_size), **more)


def test_temperature_zero_takes_the_likeliest_allowed_token():
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0]], dtype=torch.bfloat16)
    allowed = torch.tensor([True, True, False, True])
    assert sampler(SampleConfig(temperature=0))(logits).tolist() == [[2]]
    assert sampler(SampleConfig(temperature=0), allowed=allowed)(logits).tolist() == [[3]]


def test_forbidden_tokens_are_never_sampled_however_likely():
    choices = sampler(SampleConfig(max_new_tokens=200), allowed=torch.tensor([True, False, True, False]))
    logits = torch.tensor([[0.0, 50.0, 0.0, 50.0]])
    assert {choices(logits).item() for _ in range(200)} == {0, 2}


def test_the_penalty_counts_the_prompt_and_every_chosen_token_of_its_own_row():
    choices = sampler(SampleConfig(temperature=0, repetition_penalty=100), texts=[[0], [1, 2]])
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(2, -1)
    assert [choices(logits).flatten().tolist() for _ in range(3)] == [[1, 0], [2, 3], [3, 0]]


@pytest.mark.parametrize("allowed", [torch.ones(3, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)])
def test_a_mask_of_the_wrong_length_or_without_any_token_is_refused(allowed):
    with pytest.raises(ValueError, match="allowed must be 4 booleans"):
        sampler(SampleConfig(), allowed=allowed)
