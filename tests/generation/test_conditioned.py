from typing import Any

import pytest
import torch

from minillm.generation.adapters import ConditionedDecoder
from minillm.generation.config import SampleConfig
from minillm.generation.generate import generate
from minillm.models.build import build_model
from minillm.models.presets import preset

VOCAB, CONTEXT = 23, 16
SOURCES = [[5, 1, 2, 3, 4, 0, 7], [5], [6, 6, 2, 8]]
STARTS = [[0], [0, 9, 9], [0, 4]]
GREEDY = SampleConfig(temperature=0, max_new_tokens=10)


def make_t5(**more) -> Any:
    # Weights far from zero, so that the likeliest token is no matter of rounding, and changes.
    shape = {"vocab_size": VOCAB, "max_seq_len": CONTEXT, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64}
    model = build_model(preset("t5-mini", **{**shape, "init": "normal", "init_std": 0.5, **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


@torch.no_grad()
def uncached_greedy(model, source, start, num_tokens):
    text = list(start)
    for _ in range(num_tokens):
        text.append(int(model(torch.tensor([source]), torch.tensor([text])).logits["lm"][0, -1].argmax()))
    return text[len(start) :]


@pytest.mark.parametrize("position", ["t5", "sinusoidal", "rotary"])
def test_a_ragged_batch_writes_what_uncached_runs_write_one_by_one(position):
    model = make_t5(position=position)
    expected = [uncached_greedy(model, *row, 10) for row in zip(SOURCES, STARTS, strict=True)]
    assert [row.ids for row in generate(ConditionedDecoder(model, SOURCES), STARTS, GREEDY)] == expected
    assert len(set(map(tuple, expected))) == 3


def test_samples_of_a_source_share_one_reading_of_it():
    model, read = make_t5(), []
    model.encoder.register_forward_hook(lambda module, args, output: read.append(args[0].shape[:2]))
    config = SampleConfig(temperature=1.5, num_samples=3, max_new_tokens=30)
    together = generate(ConditionedDecoder(model, SOURCES), STARTS, config)
    assert read == [(3, 7)]
    alone = [
        row
        for source, start in zip(SOURCES, STARTS, strict=True)
        for row in generate(ConditionedDecoder(model, [source]), [start], config)
    ]
    assert [row.ids for row in together] == [row.ids for row in alone]


def test_past_the_window_the_newest_tokens_are_read_anew_and_the_source_is_not():
    model, read = make_t5(), []
    model.encoder.register_forward_hook(lambda *_: read.append(1))
    (row,) = generate(ConditionedDecoder(model, SOURCES[:1]), [[0]], SampleConfig(temperature=0, max_new_tokens=40))
    assert len(row.ids) == 40 and len(read) == 1


def test_dropout_is_off_while_the_source_is_read_and_as_before_afterwards():
    plain, model = make_t5(), make_t5(dropout=0.5).train()
    rows = generate(ConditionedDecoder(model, SOURCES), STARTS, GREEDY)
    assert rows == generate(ConditionedDecoder(plain, SOURCES), STARTS, GREEDY)
    assert model.training


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "there are no sources"),
        ([[1], []], "empty"),
        ([[1], [VOCAB]], f"{VOCAB} is outside the model's vocabulary"),
        ([[1] * (CONTEXT + 1)], r"17 tokens are more than model\.max_seq_len 16"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(sources, message):
    with pytest.raises(ValueError, match=message):
        ConditionedDecoder(make_t5(), sources)


def test_as_many_beginnings_as_sources_are_needed():
    with pytest.raises(ValueError, match="2 targets do not fit 3 sources"):
        generate(ConditionedDecoder(make_t5(), SOURCES), STARTS[:2], GREEDY)
