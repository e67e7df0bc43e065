from typing import Any, get_args, get_type_hints

import pytest
import torch

from minillm.generation.config import SampleConfig
from minillm.generation.generate import generate
from minillm.generation.prompt_lookup import NgramLookup
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig

POSITIONS = get_args(get_type_hints(ModelConfig)["position"])


def make_model(position="rotary", **more):
    shape = {"vocab_size": 13, "max_seq_len": 24, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64}
    weights = {"init_std": 0.5, "residual_init": "plain", "tie_embeddings": False}
    model = GPT(ModelConfig(**{"position": position, **shape, **weights, **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


def counting(model):
    """The model, and the list of numbers of tokens that its steps will have read."""
    read, step = [], model.step

    def counted(tokens, cache):
        read.append(tokens.size(1))
        return step(tokens, cache)

    model.step = counted
    return model, read


def test_it_guesses_what_followed_the_longest_run_that_has_stood_before():
    lookup = NgramLookup([1, 2, 3, 4, 9, 3, 5, 1, 2, 3])
    assert lookup.draft(1) == [4]
    assert NgramLookup([1, 3, 4, 9, 3]).draft(3) == [4, 9, 3]
    assert NgramLookup([7, 8]).draft(2) == []


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("ahead", [1, 3])
def test_reading_ahead_leaves_greedy_and_sampled_text_as_they_are(position, ahead):
    model = make_model(position)
    choices: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.6},
        {"temperature": 0, "repetition_penalty": 1.3},
    ]
    for more in choices:
        for prompt in ([3], [1, 2, 1, 2, 1]):
            plain, quick = (
                generate(model, [prompt], SampleConfig(max_new_tokens=90, num_draft_tokens=n, seed=5, **more))
                for n in (0, ahead)
            )
            assert quick[0].ids == plain[0].ids


def test_ngram_models_read_ahead_too():
    model = make_model(ngram_order=3, ngram_rows=40)
    texts = [
        generate(model, [[3, 4]], SampleConfig(temperature=0.5, max_new_tokens=60, num_draft_tokens=n)) for n in (0, 2)
    ]
    assert texts[0][0].ids == texts[1][0].ids


def test_a_text_that_repeats_itself_takes_fewer_passes():
    model, read = counting(make_model(max_seq_len=256))
    text = generate(model, [[3]], SampleConfig(temperature=0, max_new_tokens=120))[0].ids
    assert len(text) == 120 and len(set(text[-40:])) < 10, "the model goes round in circles"
    assert len(read) < 90 and max(read) == 2  # 119 without


def test_several_rows_are_read_token_by_token():
    model, read = counting(make_model())
    generate(model, [[3], [4]], SampleConfig(temperature=0, max_new_tokens=12))
    assert set(read) == {1}
