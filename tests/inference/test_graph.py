from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minillm.generation.beam import beam_search
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import generate
from minillm.inference.decoder import FastDecoder
from minillm.inference.graph import GraphDecoder, StaticStep, supports_graphs
from minillm.inference.measure import linear_names
from minillm.inference.products import Plan, Products
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.run import LoadedRun, decoding
from minillm.training.precision import Compute

RAGGED = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 9, 8], list(range(20))]
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned"},
    "sinusoidal": {"position": "sinusoidal", "input_norm": True, "embed_scale": 5.0},
    "llama": {"position": "rotary", "norm": "rmsnorm", "gated": True, "bias": False, "num_kv_heads": 2},
    "qwen3": {"position": "rotary", "norm": "rmsnorm", "gated": True, "qk_norm": True, "num_kv_heads": 1},
    "none": {"position": "none", "logit_softcap": 3.0},
}


def make_model(shape="llama", **more):
    size = {"vocab_size": 23, "max_seq_len": 24, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64}
    weights = {"init_std": 0.5, "residual_init": "plain", "tie_embeddings": False}
    model = GPT(ModelConfig(**{**size, **weights, **SHAPES[shape], **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


def fast(model):
    return FastDecoder(model, Products(Plan(), linear_names(model), {}))


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_step_of_fixed_shapes_equals_a_step(shape):
    decoder = fast(make_model(shape))
    tokens = torch.randint(23, (2, 8), generator=torch.Generator().manual_seed(0))
    caches = [decoder.start(tokens[:, :3], max_len=8)[0] for _ in range(2)]
    caches[0].memory[..., 3:, :] = torch.nan  # columns that are not written yet may hold anything
    static = StaticStep(decoder, caches[0])
    for position in range(3, 8):
        token = tokens[:, position : position + 1]
        expected = decoder.step(token, caches[1])[:, 0]
        torch.testing.assert_close(static(token, position), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_texts_are_those_of_the_model(shape):
    model = make_model(shape)
    decoder = GraphDecoder(model, model, torch.float32)
    for prompts in (RAGGED, [[1, 2, 1, 2, 1]], [[1, 2], [3, 4]]):
        for drafts in (0, 3):
            config = SampleConfig(temperature=0.6, max_new_tokens=50, num_draft_tokens=drafts, num_samples=2)
            assert generate(decoder, prompts, config) == generate(model, prompts, config)
        beams = BeamConfig(num_beams=3, num_best=2, max_new_tokens=12)
        ours, theirs = (beam_search(which, prompts, beams, eos_id=3) for which in (decoder, model))
        assert [row.ids for row in ours] == [row.ids for row in theirs]
    assert decoder.recorded is not None, "a batch of one length takes steps of fixed shapes"
    assert not any(module.training for module in model.modules())


class OnCPU(TorchDispatchMode):
    """Collects the names of operators whose results are on the CPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in (result if isinstance(result, tuple) else (result,)) if isinstance(x, torch.Tensor)]
        self.names += [str(function) for x in tensors if x.device.type == "cpu"]
        return result


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_steps_create_no_tensor_on_another_device(shape):
    decoder = fast(make_model(shape).to("meta"))
    tokens = torch.zeros(2, 5, dtype=torch.long, device="meta")
    cache, logits = decoder.start(tokens, max_len=12)
    with OnCPU() as found:
        several = decoder.step(tokens[:, :2], cache)
        static = StaticStep(decoder, cache).run()
    assert found.names == []
    assert (logits.shape, several.shape, static.shape) == ((2, 23), (2, 2, 23), (2, 23))


def test_padded_and_large_batches_are_left_to_the_model(monkeypatch):
    model = make_model()
    decoder = GraphDecoder(model, model, torch.float32)
    decoder.recorded = None
    generate(decoder, RAGGED, SampleConfig(max_new_tokens=3))
    monkeypatch.setattr("minillm.inference.graph.MAX_RECORDED_ROWS", 2)
    generate(decoder, [[1, 2]] * 3, SampleConfig(max_new_tokens=3))
    assert decoder.recorded is None


def test_a_decoder_that_computes_something_else_is_refused():
    model, other = make_model(), make_model(num_kv_heads=4)
    with pytest.raises(RuntimeError, match="a recorded step differs from the model by"):
        GraphDecoder(model, other, torch.float32)


def test_ngram_embeddings_are_not_recorded():
    assert supports_graphs(ModelConfig(position="rotary"))
    assert not supports_graphs(ModelConfig(position="rotary", ngram_order=3, ngram_rows=40))
    assert not supports_graphs(ModelConfig(position="alibi"))


def test_the_line_about_many_prompts_names_the_plain_model(monkeypatch):
    model, compute = make_model(), Compute(torch.device("cuda"), torch.float32, compile=False)
    monkeypatch.setattr(decoding, "GraphDecoder", lambda *given: GraphDecoder(model, model, torch.float32))
    run = object.__new__(LoadedRun)  # only its decoder matters
    run.__dict__["_decoder"] = decoding.make_decoder(model, compute, {})
    assert run.describe_decoder() == "decoding: fp32, CUDA graphs" and isinstance(run.decoder, GraphDecoder)
    assert run.describe_decoder(batch=True) == "decoding: fp32" and run.batch_decoder is model


def test_a_recording_that_fails_is_reported_in_one_line_and_the_model_decodes(monkeypatch):
    def broken(*given):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    model, compute = make_model(), Compute(torch.device("cuda"), torch.float32, compile=False)
    monkeypatch.setattr(decoding, "GraphDecoder", broken)
    decoder, line = decoding.make_decoder(model, compute, {})
    assert decoder is model
    assert line == "decoding: fp32; CUDA graphs are off: operation not permitted when stream is capturing"
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "COPIED_BYTES", 100)
    assert decoding.make_decoder(model, compute, {}) == (model, "decoding: fp32")
