import math
from itertools import product
from typing import Any

import pytest
import torch

from minillm.generation.adapters import ConditionedDecoder
from minillm.generation.beam import beam_search
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import generate
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig

VOCAB, EOS, CONTEXT = 5, 2, 8
RAGGED = [[4], [1, 2, 3, 4, 0, 1, 3], [3, 3, 0], [1, 3, 0, 4] * 3]
SOURCES = [[1, 3, 3, 0, 4], [4], [0, 0, 2]]
STARTS = [[0], [0], [0]]


def make_model(family="gpt", *, seed=1, **more) -> Any:
    # Weights far from zero, so that no choice is a matter of rounding.
    shape = {"vocab_size": VOCAB, "max_seq_len": CONTEXT, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64}
    weights = {"init_std": 0.3, "residual_init": "plain", "tie_embeddings": False, "position": "t5"}
    model = build_model(ModelConfig(**{"family": family, **shape, **weights, **more}))
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.eval()


def log_probability(model, prompt, ids, source=None):
    """Sum over `ids` of log p, uncached."""
    text = torch.tensor([[*prompt, *ids]])
    output = model(text) if source is None else model(torch.tensor([source]), text)
    chosen = output.logits["lm"].log_softmax(-1)[0, len(prompt) - 1 : -1].gather(-1, torch.tensor(ids)[:, None])
    return chosen.sum().item()


@torch.no_grad()
def exhaustive(model, prompt, alpha, length, source=None):
    """(score, ids without EOS) of every text of `length` tokens and every one that EOS ends before, best first."""
    found = []
    for n in range(1, length + 1):
        for ids in product(range(VOCAB), repeat=n):
            if EOS not in ids[:-1] and (n == length or ids[-1] == EOS):
                score = log_probability(model, prompt, ids, source) / ((5 + n) / 6) ** alpha
                found.append((score, [i for i in ids if i != EOS]))
    return sorted(found, reverse=True)


def check_nbest(rows, expected):
    assert [row.ids for row in rows] == [ids for _, ids in expected[: len(rows)]]
    assert [row.score for row in rows] == pytest.approx([score for score, _ in expected[: len(rows)]], abs=1e-4)
    assert [row.sample for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_as_wide_as_the_vocabulary_it_equals_exhaustive_search_of_two_tokens(seed, alpha):
    model = make_model(seed=seed, max_seq_len=9)
    config = BeamConfig(num_beams=VOCAB, num_best=VOCAB, length_penalty=alpha, max_new_tokens=2)
    for prompt in RAGGED[:3]:
        check_nbest(beam_search(model, [prompt], config, eos_id=EOS), exhaustive(model, prompt, alpha, 2))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("family", ["gpt", "t5"])
def test_as_wide_as_the_number_of_beginnings_it_equals_exhaustive_search_of_three_tokens(family, alpha):
    model, source = make_model(family), SOURCES[0] if family == "t5" else None
    config = BeamConfig(num_beams=VOCAB**2, num_best=VOCAB**2, length_penalty=alpha, max_new_tokens=3)
    decodable = model if source is None else ConditionedDecoder(model, [source])
    rows = beam_search(decodable, [[0]], config, eos_id=EOS)
    assert len(rows) == VOCAB**2
    check_nbest(rows, exhaustive(model, [0], alpha, 3, source))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("eos_id", [EOS, None, (EOS, 3, 4)])
def test_of_width_one_it_is_greedy(seed, eos_id):
    model = make_model(seed=seed)
    greedy = generate(model, RAGGED, SampleConfig(temperature=0, max_new_tokens=20), eos_id=eos_id)
    rows = beam_search(model, RAGGED, BeamConfig(num_beams=1, max_new_tokens=20), eos_id=eos_id)
    assert [(row.ids, row.finish_reason) for row in rows] == [(row.ids, row.finish_reason) for row in greedy]


@pytest.mark.parametrize("seed", range(4))
def test_of_width_one_it_is_greedy_for_an_encoder_decoder(seed):
    model = ConditionedDecoder(make_model("t5", seed=seed), SOURCES)
    greedy = generate(model, STARTS, SampleConfig(temperature=0, max_new_tokens=20), eos_id=EOS)
    rows = beam_search(model, STARTS, BeamConfig(num_beams=1, max_new_tokens=20), eos_id=EOS)
    assert [(row.ids, row.finish_reason) for row in rows] == [(row.ids, row.finish_reason) for row in greedy]


@torch.no_grad()
def uncached(model, prompt, config, source=None):
    """Beam search as its definition reads, never ended early, one hypothesis and one whole forward pass at a time."""
    live, ended = [(0.0, [])], []
    for n in range(1, config.max_new_tokens + 1):
        grown = []
        for total, ids in live:
            text = torch.tensor([[*prompt, *ids]])
            output = model(text) if source is None else model(torch.tensor([source]), text)
            step = output.logits["lm"][0, -1].log_softmax(-1).tolist()
            grown += [(total + step[token], [*ids, token]) for token in range(VOCAB)]
        grown.sort(reverse=True)
        penalty = ((5 + n) / 6) ** config.length_penalty
        ended += [(total / penalty, ids[:-1]) for total, ids in grown[: config.num_beams] if ids[-1] == EOS]
        live = [(total, ids) for total, ids in grown if ids[-1] != EOS][: config.num_beams]
        if n == config.max_new_tokens:
            ended += [(total / penalty, ids) for total, ids in live]
    return sorted(ended, reverse=True)[: config.num_best]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("position", ["t5", "rotary", "learned"])
def test_a_cached_ragged_batch_finds_what_uncached_runs_find_one_by_one(position, seed):
    model = make_model(position=position, seed=seed, max_seq_len=24)
    config = BeamConfig(num_beams=3, num_best=3, max_new_tokens=9)
    rows = beam_search(model, RAGGED, config, eos_id=EOS)
    for i, prompt in enumerate(RAGGED):
        check_nbest(rows[3 * i : 3 * i + 3], uncached(model, prompt, config))


@pytest.mark.parametrize("ngram_order", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_cached_ragged_batch_of_sources_finds_what_uncached_runs_find_one_by_one(seed, ngram_order):
    model = make_model("t5", seed=seed, ngram_order=ngram_order)
    config = BeamConfig(num_beams=3, num_best=2, max_new_tokens=7)
    rows = beam_search(ConditionedDecoder(model, SOURCES), STARTS, config, eos_id=EOS)
    for i, source in enumerate(SOURCES):
        check_nbest(rows[2 * i : 2 * i + 2], uncached(model, [0], config, source))


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_short_unlikely_texts_that_end_do_not_end_the_search_of_a_likely_one(alpha):
    model = make_model(max_seq_len=24)
    with torch.no_grad():  # 1 follows everything for certain but that anything may end, at one in a hundred
        model.heads["lm"].proj.weight.zero_()
        model.heads["lm"].proj.bias = torch.nn.Parameter(torch.tensor([-9.0, 5.0, 0.4, -9.0, -9.0]))
    config = BeamConfig(num_beams=4, num_best=2, length_penalty=alpha, max_new_tokens=10)
    rows = beam_search(model, [[1]], config, eos_id=EOS)
    assert rows[0].ids == [1] * 10 and rows[0].score == pytest.approx(
        log_probability(model, [1], [1] * 10) / 2.5**alpha
    )
    check_nbest(rows, uncached(model, [1], config)[:2])


@pytest.mark.parametrize("family", ["gpt", "t5"])
def test_past_the_window_a_batch_still_equals_its_rows_alone(family):
    model = make_model(family)
    config = BeamConfig(num_beams=2, num_best=2, max_new_tokens=20)
    inputs = RAGGED[:3] if family == "gpt" else STARTS
    views = [model] * 3 if family == "gpt" else [ConditionedDecoder(model, [source]) for source in SOURCES]
    together = beam_search(model if family == "gpt" else ConditionedDecoder(model, SOURCES), inputs, config)
    alone = [row for view, prompt in zip(views, inputs, strict=True) for row in beam_search(view, [prompt], config)]
    assert [row.ids for row in together] == [row.ids for row in alone]
    assert all(len(row.ids) == 20 and row.finish_reason == "length" for row in together)


def test_a_larger_penalty_gains_longer_texts():
    lengths = []
    for alpha in (0.0, 5.0):
        config = BeamConfig(num_beams=8, length_penalty=alpha, max_new_tokens=12)
        rows = [beam_search(make_model(seed=s), [[1]], config, eos_id=EOS)[0] for s in range(6)]
        lengths.append(sum(len(row.ids) for row in rows))
    assert lengths[0] < lengths[1]


def test_a_wider_beam_finds_likelier_texts():
    scores = []
    for width in (1, 8):
        config = BeamConfig(num_beams=width, length_penalty=0.0, max_new_tokens=6)
        rows = [beam_search(make_model(seed=s), [[1]], config)[0] for s in range(6)]
        scores.append(sum(row.score or 0.0 for row in rows))
    assert scores[0] < scores[1]


def test_ids_that_are_not_allowed_never_come_and_there_may_be_fewer_texts_than_asked_for():
    model, allowed = make_model(), torch.zeros(VOCAB, dtype=torch.bool)
    allowed[[1, EOS]] = True
    config = BeamConfig(num_beams=4, num_best=4, max_new_tokens=2)
    rows = beam_search(model, [[0]], config, eos_id=EOS, allowed=allowed)
    assert sorted(row.ids for row in rows) == [[], [1], [1, 1]]
    allowed[1] = False
    (row,) = beam_search(model, [[0]], config, eos_id=EOS, allowed=allowed)
    assert (row.ids, row.finish_reason, row.score) == ([], "eos", 0.0)


def test_no_prompts_and_no_tokens_give_nothing():
    assert beam_search(make_model(), [], BeamConfig()) == []
    (row,) = beam_search(make_model(), [[1]], BeamConfig(max_new_tokens=0))
    assert (row.ids, row.finish_reason) == ([], "length")


def test_a_diverged_model_is_an_error_instead_of_a_text():
    model = make_model()
    with torch.no_grad():
        model.get_parameter("heads.lm.proj.weight")[3, 0] = math.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        beam_search(model, [[1]], BeamConfig())


def test_dropout_is_off_meanwhile_and_as_before_afterwards():
    plain, model = make_model(), make_model(dropout=0.5).train()
    config = BeamConfig(max_new_tokens=5)
    assert beam_search(model, [[1]], config) == beam_search(plain, [[1]], config)
    assert model.training


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_beams", 0),
        ("num_best", 0),
        ("num_best", 5),
        ("length_penalty", -1.0),
        ("length_penalty", math.nan),
        ("length_penalty", 300.0),
        ("max_new_tokens", -1),
    ],
)
def test_a_value_outside_its_range_is_refused_in_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^beam\.{key} is .*; it must be .*$"):
        BeamConfig(**{key: value})
