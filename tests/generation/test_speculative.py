from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
import torch

from minillm.generation.config import SampleConfig
from minillm.generation.generate import generate
from minillm.generation.speculative import Draft, NgramLookup
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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("num_drafts", [1, 4])
def test_a_draft_model_leaves_the_text_as_it_is_and_saves_passes(temperature, num_drafts):
    model, read = counting(make_model(max_seq_len=64))
    small = make_model(max_seq_len=48, num_layers=1)
    config = SampleConfig(temperature=temperature, max_new_tokens=60, num_draft_tokens=num_drafts, seed=3)
    alone = generate(model, [[3, 1]], replace(config, num_draft_tokens=0))
    for drafter in (small, model):
        read.clear()
        assert generate(model, [[3, 1]], config, draft=Draft(drafter, 0.0)) == alone
    verified = sum(n > 1 for n in read)
    assert verified > 5, "the model is its own drafter, and some drafts are read"


def test_the_model_as_its_own_greedy_draft_needs_a_pass_for_every_few_tokens():
    model, drafter = make_model(max_seq_len=64), make_model(max_seq_len=64)
    model, read = counting(model)
    config = SampleConfig(temperature=0, max_new_tokens=41, num_draft_tokens=4)
    generate(model, [[3, 1]], config, draft=Draft(drafter, 0.0))
    assert read == [5] * 8


def test_tokens_after_a_draft_are_distributed_as_the_models_own():
    """Chi-square over the pairs of the second and third token, for a drafter with another distribution."""
    model, small = make_model(init_std=0.3), make_model(num_layers=1, init_std=0.6)
    expected = second_and_third(model, [3])
    num_draws, counts = 3000, torch.zeros(13, 13)
    for seed in range(num_draws):
        config = SampleConfig(temperature=1, max_new_tokens=3, num_draft_tokens=2, seed=seed)
        _, b, c = generate(model, [[3]], config, draft=Draft(small, 0.0))[0].ids
        counts[b, c] += 1
    likely = expected * num_draws >= 5
    observed = torch.cat((counts[likely], counts[~likely].sum()[None]))
    wanted = torch.cat((expected[likely], expected[~likely].sum()[None])) * num_draws
    statistic = float(((observed - wanted).square() / wanted).sum())
    freedom = len(wanted) - 1
    assert freedom > 20
    assert statistic < freedom + 3.1 * (2 * freedom) ** 0.5 + 3, "99.9 % quantile, by the normal approximation"


@torch.no_grad()
def second_and_third(model, prompt):
    """(V, V) probabilities of the second and third new token after a prompt."""
    first = model(torch.tensor([prompt])).logits["lm"][0, -1].softmax(-1)
    total = torch.zeros(13, 13)
    for a in range(13):
        pairs = torch.tensor([[*prompt, a, b] for b in range(13)])
        logits = model(pairs).logits["lm"]
        total += first[a] * logits[0, -2].softmax(-1)[:, None] * logits[:, -1].softmax(-1)
    return total


def test_drafts_that_are_never_accepted_are_given_up_and_tried_again_now_and_then():
    model, read = counting(make_model(max_seq_len=256))
    model.draft_cost = 0.3
    config = SampleConfig(temperature=30, max_new_tokens=200, num_draft_tokens=1)
    generate(model, [[3]], config)
    assert 10 < sum(n == 2 for n in read) < 45
    model.draft_cost = 0.0
    read.clear()
    generate(model, [[3]], config)
    assert sum(n == 2 for n in read) > 100


def test_a_draft_model_is_not_asked_beyond_its_context():
    model, small = make_model(max_seq_len=64), make_model(max_seq_len=8)
    config = SampleConfig(temperature=0, max_new_tokens=40, num_draft_tokens=2)
    alone = generate(model, [[3, 1]], replace(config, num_draft_tokens=0))
    assert generate(model, [[3, 1]], config, draft=Draft(small, 0.0)) == alone
