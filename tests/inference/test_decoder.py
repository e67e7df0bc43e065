from typing import Any

import pytest
import torch

from minillm.generation.beam import beam_search
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import generate
from minillm.inference import decoder
from minillm.inference.decoder import FastDecoder, supports
from minillm.inference.measure import linear_names
from minillm.inference.products import Plan, Products
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig

VOCAB, CONTEXT = 23, 8
ROTARY: dict[str, Any] = {"position": "rotary", "norm": "rmsnorm", "gated": True, "bias": False}
RAGGED = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 9, 8], list(range(20))]
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned"},
    "sinusoidal": {"position": "sinusoidal", "input_norm": True, "embed_scale": 5.0},
    "none": {"position": "none", "activation": "relu2", "norm_bias": False},
    "llama": ROTARY | {"activation": "silu", "num_kv_heads": 1},
    "llama3": ROTARY | {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_len": 4, "num_kv_heads": 2},
    "qwen2": ROTARY | {"attention_bias": "qkv"},
    "qwen3": ROTARY | {"qk_norm": True, "num_kv_heads": 2},
    "ngrams": {"position": "rotary", "ngram_order": 3, "ngram_rows": 40, "qk_norm": True, "bias": False},
    "gemma": {"position": "rotary", "logit_softcap": 3.0, "head_scale": 0.5, "attention_scale": 0.3, "head_dim": 6},
}


def make_model(shape="llama", *, context=CONTEXT, **more):
    size = {"vocab_size": VOCAB, "max_seq_len": context, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64}
    weights = {"init_std": 0.5, "residual_init": "plain", "tie_embeddings": False}
    model = GPT(ModelConfig(**{**size, **weights, **SHAPES[shape], **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases start as ones and zeros, which would hide a lost one
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model.eval()


def fast(model, plan=None):
    return FastDecoder(model, Products(plan or Plan(), linear_names(model), {}))


@pytest.fixture(params=[decoder.WIDE, 1], ids=["flat", "wide"])
def _cache(request, monkeypatch):
    """Both forms of the cache, for batches of any size."""
    monkeypatch.setattr(decoder, "WIDE", request.param)


def recorded(model):
    logits, start, step = [], model.start, model.step

    def recording_start(*args, **kwargs):
        cache, out = start(*args, **kwargs)
        logits.append(out)
        return cache, out

    def recording_step(*args):
        logits.append(step(*args))
        return logits[-1]

    model.start, model.step = recording_start, recording_step
    return model, logits


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_fast_decoder_equals_the_model(shape):
    model, expected = recorded(make_model(shape))
    quick, logits = recorded(fast(model))
    config = SampleConfig(temperature=2, max_new_tokens=20, num_draft_tokens=0)
    for prompts in (RAGGED, [[3, 4, 5]], [[1, 2], [3, 4]]):
        expected.clear()
        logits.clear()
        texts = [[row.ids for row in generate(one, prompts, config)] for one in (model, quick)]
        assert texts[0] == texts[1]
        assert len(expected) == len(logits) == 20
        for one, other in zip(expected, logits, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=2e-4)


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize("shape", ["llama", "gpt2", "ngrams"])
def test_prefixes_drafts_and_beams_are_those_of_the_model(shape):
    model = make_model(shape, context=24)
    quick = fast(model)
    for prompts in (RAGGED, [[1, 2, 1, 2, 1]]):
        config = SampleConfig(temperature=0.6, max_new_tokens=50, num_draft_tokens=3)
        for prefix in (False, True):
            one, other = (generate(which, prompts, config, prefix=prefix) for which in (model, quick))
            assert one == other
        beams = BeamConfig(num_beams=3, num_best=2, max_new_tokens=12)
        one, other = (beam_search(which, prompts, beams, eos_id=3) for which in (model, quick))
        assert [row.ids for row in one] == [row.ids for row in other]


@pytest.mark.parametrize("one_row", ["same", "sum"])
@pytest.mark.parametrize("form", ["transposed", "onednn"])
def test_every_form_writes_the_same_greedy_text(form, one_row):
    model, config = make_model("qwen2"), SampleConfig(temperature=0, max_new_tokens=20)
    expected = generate(model, RAGGED, config)
    for rows in (1, 2):
        quick = fast(model, Plan(form, min_rows=rows, one_row=one_row))
        assert generate(quick, RAGGED, config) == expected
        assert generate(quick, [[1, 2]], config) == generate(model, [[1, 2]], config)


@pytest.mark.usefixtures("_cache")
def test_bf16_products_keep_the_logits_within_the_precision_of_bf16():
    model, expected = recorded(make_model())
    quick, logits = recorded(fast(model, Plan("onednn", torch.bfloat16)))
    both: tuple[Any, Any] = (model, quick)
    for one in both:
        cache, _ = one.start(torch.tensor([[1, 2, 3]]), max_len=5)
        one.step(torch.tensor([[4]]), cache)
    for found, wanted in zip(logits, expected, strict=True):
        error = (found.flatten() - wanted.flatten()).norm() / wanted.norm()
        assert 0 < error < 0.02


@pytest.mark.parametrize(
    "more",
    [{"position": "alibi"}, {"position": "t5"}, {"norm_order": "post"}, {"layer_pattern": ("local",), "window": 3}],
)
def test_what_it_does_not_compute_it_refuses(more):
    model = make_model(**more)
    assert not supports(model.config)
    with pytest.raises(ValueError, match="parts that the fast decoder lacks"):
        fast(model)


def test_generating_leaves_the_model_in_evaluation_mode():
    model = make_model(dropout=0.5)
    generate(fast(model), [[1, 2]], SampleConfig(max_new_tokens=2))
    assert not any(module.training for module in model.modules())
