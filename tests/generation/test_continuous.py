import pytest
import torch

from minillm.generation.config import SampleConfig
from minillm.generation.continuous import stream_queue
from minillm.generation.generate import collect, generate, unwritten
from minillm.inference.decoder import FastDecoder
from minillm.inference.measure import linear_names
from minillm.inference.products import Plan, Products
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig

VOCAB = 23
PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 9, 8], list(range(20)), [], [3, 1], [7] * 9, [2, 2], [11, 4, 6, 1], [0]]


def make_model(position="rotary", *, context=16, **more):
    size = {"vocab_size": VOCAB, "max_seq_len": context, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64}
    weights = {"init_std": 0.5, "residual_init": "plain", "tie_embeddings": False}
    model = GPT(ModelConfig(**{"position": position, **size, **weights, **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


def fast(model):
    return FastDecoder(model, Products(Plan(), linear_names(model), {}))


def queued(model, prompts, config, *, slots, on_token=None, **options):
    rows = unwritten(model, prompts, config, eos_id=options.get("eos_id"))
    collect(rows, stream_queue(model, prompts, config, slots=slots, **options), on_token)
    return rows


def alone(model, prompts, config, **options):
    return [row for prompt in prompts for row in generate(model, [prompt], config, **options)]


def counting(model):
    """The model, and the numbers of rows of its steps."""
    read, step = [], model.step

    def counted(tokens, cache):
        read.append(tokens.size(0))
        return step(tokens, cache)

    model.step = counted
    return model, read


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 8, 64])
def test_rows_that_take_turns_are_those_written_one_by_one(slots, quick):
    model = fast(make_model()) if quick else make_model()
    for config in (
        SampleConfig(temperature=0, max_new_tokens=30),
        SampleConfig(temperature=1.5, max_new_tokens=12, repetition_penalty=1.2, num_samples=2, num_draft_tokens=0),
    ):
        assert queued(model, PROMPTS, config, slots=slots, eos_id=4) == alone(model, PROMPTS, config, eos_id=4)


@pytest.mark.parametrize("position", ["learned", "alibi", "t5", "none"])
def test_every_position_scheme_survives_the_exchange_of_rows(position):
    model, config = make_model(position), SampleConfig(temperature=0, max_new_tokens=20)
    assert queued(model, PROMPTS, config, slots=3, eos_id=4) == alone(model, PROMPTS, config, eos_id=4)


@pytest.mark.parametrize("quick", [False, True])
def test_ngrams_and_prefixes_move_with_their_rows(quick):
    model = make_model(ngram_order=3, ngram_rows=40)
    model = fast(model) if quick else model
    config = SampleConfig(temperature=0, max_new_tokens=20)
    for prefix in (False, True):
        options = {"eos_id": 4, "prefix": prefix}
        assert queued(model, PROMPTS, config, slots=3, **options) == alone(model, PROMPTS, config, **options)


def test_a_row_that_ends_leaves_and_a_waiting_one_enters():
    model, read = counting(make_model(context=64))
    config = SampleConfig(temperature=0, max_new_tokens=40)
    ends = {row: 2 + 3 * row for row in range(10)}
    written = dict.fromkeys(ends, 0)

    def on_token(row, token):
        written[row] += 1
        return written[row] == ends[row]

    rows = queued(model, PROMPTS, config, slots=4, eos_id=4, on_token=on_token)
    assert all(len(row.ids) <= ends[i] for i, row in enumerate(rows))
    assert max(read) == 4 and read[-1] == 1, "the batch shrinks when no row waits"
    assert sum(read) < 1.6 * sum(len(row.ids) for row in rows)


def test_a_closed_queue_computes_nothing_more():
    model, read = counting(make_model().train())
    events = stream_queue(model, PROMPTS[:4], SampleConfig(max_new_tokens=9), slots=2)
    next(events)
    events.close()
    assert read == [] and model.training
