"""A prompt that is read in both directions: by itself, padded, cached, past the window, in a beam and ahead."""

from typing import Any, get_args, get_type_hints

import pytest
import torch

from minillm.generation.beam import beam_search
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import generate, prefill, window_start
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig

POSITIONS = [*get_args(get_type_hints(ModelConfig)["position"]), "rotary and trigrams"]
VOCAB, CONTEXT = 23, 8
RAGGED = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 9, 8], list(range(20))]


def make_model(position="rotary", *, context=CONTEXT, **more) -> Any:
    # Weights far from zero, so that the likeliest token is no matter of rounding, and changes.
    position, _, extra = position.partition(" and ")
    shape = {"vocab_size": VOCAB, "max_seq_len": context, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64}
    weights = {"init_std": 0.5, "residual_init": "plain", "tie_embeddings": False, "ngram_order": 3 if extra else 1}
    model = GPT(ModelConfig(**{"position": position, **shape, **weights, **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


def greedy(**more):
    return SampleConfig(**{"temperature": 0, "max_new_tokens": 25, **more})


@torch.no_grad()
def uncached_logits(model, prompt, ids):
    """Of the next token, as in training: what is in view of the prompt is prefix, what was written is not."""
    text = [*prompt, *ids]
    start = window_start(len(text), model.config.max_seq_len)
    prefix = torch.tensor([max(0, len(prompt) - start)])
    return model(torch.tensor([text[start:]]), prefix_length=prefix).logits["lm"][0, -1]


def uncached_greedy(model, prompt, num_tokens):
    ids: list[int] = []
    for _ in range(num_tokens):
        ids.append(int(uncached_logits(model, prompt, ids).argmax()))
    return ids


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_the_prompt_is_read_as_forward_reads_a_prefix_and_steps_are_causal(position):
    model = make_model(position)
    text, prefix = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]]), torch.tensor([4, 4])
    full = model(text, prefix_length=prefix).logits["lm"]
    cache, logits = prefill(model, text[:, :4].tolist(), 4, prefix=True)
    torch.testing.assert_close(logits, full[:, 3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.step(text[:, 4:], cache), full[:, 4:], rtol=1e-4, atol=1e-4)
    assert not logits.allclose(model.start(text[:, :4], max_len=7)[1], atol=1e-2)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_ragged_batch_far_past_the_window_writes_what_uncached_runs_write_one_by_one(position):
    model = make_model(position)
    expected = [uncached_greedy(model, prompt, 25) for prompt in RAGGED]
    assert [row.ids for row in generate(model, RAGGED, greedy(), prefix=True)] == expected
    assert [generate(model, [prompt], greedy(), prefix=True)[0].ids for prompt in RAGGED] == expected


def test_it_writes_otherwise_than_a_causal_reading():
    model = make_model(context=64)
    texts = zip(generate(model, RAGGED, greedy(), prefix=True), generate(model, RAGGED, greedy()), strict=True)
    assert [a.ids == b.ids for a, b in texts] == [True, False, False, False]  # one token has one direction


@pytest.mark.parametrize("ahead", [1, 3])
def test_reading_ahead_leaves_the_text_as_it_is(ahead):
    model = make_model(context=24, vocab_size=7)
    for temperature in (0, 0.6):
        more = {"max_new_tokens": 90, "temperature": temperature}
        plain, quick = (
            generate(model, [[1, 2, 3, 1, 2]], greedy(num_draft_tokens=n, **more), prefix=True) for n in (0, ahead)
        )
        assert plain[0].ids == quick[0].ids


def test_a_beam_reads_its_prompts_so_too_alone_or_together_also_past_the_window():
    model = make_model()
    config = BeamConfig(num_beams=3, num_best=3, length_penalty=0.0, max_new_tokens=12)
    together = beam_search(model, RAGGED, config, prefix=True)
    alone = [row for prompt in RAGGED for row in beam_search(model, [prompt], config, prefix=True)]
    assert [row.ids for row in together] == [row.ids for row in alone]
    for row in together:
        steps = [uncached_logits(model, row.prompt_ids, row.ids[:n]).log_softmax(-1)[i] for n, i in enumerate(row.ids)]
        assert row.score == pytest.approx(float(sum(steps)), abs=1e-3)


def test_dropout_is_off_meanwhile_and_on_again_afterwards():
    plain, model = make_model(), make_model(dropout=0.5).train()
    assert generate(model, RAGGED, greedy(), prefix=True) == generate(plain, RAGGED, greedy(), prefix=True)
    assert model.training
