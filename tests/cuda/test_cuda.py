"""What a GPU computes is what a CPU computes; skipped without CUDA. `pytest -m cuda` runs these tests alone."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minillm import RunConfig, SampleConfig, generate, load_run, override, preset, save_config, train
from minillm.distributed.runtime import Runtime
from minillm.inference.graph import GraphDecoder, supports_graphs
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.run.build import build_objective, build_source, prepare_corpus, run_parts
from minillm.training.metrics import read_metrics
from minillm.training.precision import Compute

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # torch's compiler warns of torch
    pytest.mark.timeout(300),
]
CUDA: dict[str, object] = {"train.device": "cuda", "train.compile": "off"}
SHAPE: dict[str, object] = {"vocab_size": 31, "d_model": 64, "num_layers": 2, "num_heads": 4, "max_seq_len": 32}
SHAPES: dict[str, ModelConfig] = {
    "gpt2": preset("gpt2", **SHAPE),
    "qwen3": preset("qwen3-nano", **SHAPE, d_ff=96),
    "n-grams": preset("gpt-nano", **SHAPE),
    "bert": preset("bert-tiny", **SHAPE),
    "t5": preset("t5-mini", **SHAPE, d_ff=96),
}


def logits_and_gradients(config: ModelConfig, device: str) -> list[torch.Tensor]:
    """Logits of a padded batch, and the gradients of their squares."""
    model = build_model(config)
    model.init_weights(torch.Generator().manual_seed(1))
    model.to(device).eval()
    tokens = torch.randint(31, (3, 20), generator=torch.Generator().manual_seed(2)).to(device)
    valid = (torch.arange(20) < torch.tensor([[20], [13], [5]])).to(device)
    if config.family == "t5":
        output = model(tokens, tokens, encoder_valid=valid, decoder_valid=valid)
    else:
        output = model(tokens, key_valid=valid)
    logits = output.logits["lm"] * valid[..., None]
    logits.square().mean().backward()
    return [logits.detach().cpu(), *(p.grad.cpu() for p in model.parameters())]


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_gradients_equal_the_cpus(name: str):
    cpu, cuda = (logits_and_gradients(SHAPES[name], device) for device in ("cpu", "cuda"))
    for ours, theirs in zip(cuda, cpu, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("objective", ["clm", "mlm", "span", "prefix_lm", "seq2seq"])
def test_an_objective_follows_its_golden_curve(tmp_path: Path, objective: str):
    recorder = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "record.py"))
    recorder["CONFIG"].update(CUDA)
    golden = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "test_curves.py"))
    recorded = golden["json"].loads((golden["HERE"] / f"{objective}.json").read_text(encoding="utf-8"))
    assert recorder["curve"](tmp_path, objective)["loss"] == pytest.approx(recorded["loss"], rel=golden["TOLERANCE"])


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


def test_a_compiled_run_has_the_losses_of_an_eager_one(config: RunConfig, tmp_path: Path):
    same = {**CUDA, "model.dropout": 0.0}
    eager, compiled = (
        train(override(config, {**same, "train.compile": mode}), tmp_path / mode) for mode in ("off", "on")
    )
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_like_fp32(config: RunConfig, tmp_path: Path, precision: str):
    same = {**CUDA, "model.dropout": 0.0}
    full = train(override(config, same), tmp_path / "fp32")
    half = train(override(config, {**same, "train.precision": precision}), tmp_path / precision)
    assert losses(half) == pytest.approx(losses(full), rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(config: RunConfig, tmp_path: Path, precision: str):
    given = override(config, {**CUDA, "train.precision": precision})
    short = replace(given, train=replace(given.train, steps=3), schedule=replace(given.schedule, name="constant"))
    constant = replace(given, schedule=short.schedule)
    whole = train(constant, tmp_path / "constant")
    train(short, tmp_path / "resumed")
    resumed = train(constant, tmp_path / "resumed", resume=True)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-5)  # sums of the embedding's gradient vary in order


def test_a_batch_is_decoded_as_its_prompts_alone_and_as_on_the_cpu(finished: Path):
    greedy = SampleConfig(temperature=0.0, max_new_tokens=24)
    prompts = [[5, 6, 7], [9], [3, 4, 5, 6, 7, 8, 9, 10]]
    on_gpu, on_cpu = (load_run(finished, device=device).model for device in ("cuda", "cpu"))
    together = [completion.ids for completion in generate(on_gpu, prompts, greedy)]
    assert together == [generate(on_gpu, [prompt], greedy)[0].ids for prompt in prompts]
    assert together == [completion.ids for completion in generate(on_cpu, prompts, greedy)]


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
@torch.inference_mode()
def test_a_recorded_step_equals_the_model(name: str):
    model: Any = build_model(SHAPES[name])
    model.init_weights(torch.Generator().manual_seed(1))
    model.to("cuda").eval()
    decoder = GraphDecoder(model, model, torch.float32)
    tokens = torch.randint(31, (3, 20), generator=torch.Generator().manual_seed(2)).to("cuda")
    (ours, first), (theirs, expected) = (one.start(tokens[:, :4], max_len=20) for one in (decoder, model))
    assert torch.allclose(first, expected, rtol=1e-4, atol=1e-4)
    for token in tokens[:, 4:].split(1, 1):
        logits, expected = decoder.step(token, ours), model.step(token, theirs)
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert decoder.recorded is not None and decoder.recorded.graph is not None


def test_a_run_decodes_with_recorded_steps(finished: Path):
    loaded = load_run(finished, device="cuda", dtype="fp32")
    greedy = SampleConfig(temperature=0.0, max_new_tokens=24)
    assert generate(loaded.decoder, [[5, 6, 7]], greedy) == generate(loaded.model, [[5, 6, 7]], greedy)
    if supports_graphs(loaded.model.config):
        assert loaded.describe_decoder().endswith("CUDA graphs")


def test_too_large_a_micro_batch_is_halved_and_the_losses_stay(config: RunConfig, tmp_path: Path):
    same = {**CUDA, "model.dropout": 0.0, "model.max_seq_len": 16, "train.global_batch": 16, "train.micro_batch": 16}
    enough = train(override(config, same), tmp_path / "enough")
    wide = {**same, "model.d_model": 1024, "model.d_ff": 65536, "train.steps": 2}
    reference = train(override(config, {**wide, "train.micro_batch": 1}), tmp_path / "reference")
    assert len(losses(enough)) == 6
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.max_memory_allocated() + 2**25) / total))
    try:
        halved = train(override(config, wide), tmp_path / "halved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert losses(halved) == pytest.approx(losses(reference), rel=1e-4)


def test_one_rank_of_nccl_has_the_losses_of_one_process(config: RunConfig, tmp_path: Path):
    given = override(config, {**CUDA, "model.dropout": 0.0})
    alone = train(given, tmp_path / "alone")
    save_config(given, tmp_path / "given.toml")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "minillm", "train"]
    subprocess.run([*command, str(tmp_path / "given.toml"), "--out", str(tmp_path / "ranks")], check=True, timeout=200)
    assert losses(tmp_path / "ranks") == pytest.approx(losses(alone), rel=1e-5)


def test_batches_wait_in_pinned_memory(config: RunConfig):
    corpus = prepare_corpus(config, None, Runtime())
    objective = build_objective(replace(config, model=replace(config.model, vocab_size=300)), corpus.tokenizer)
    compute = Compute(torch.device("cuda"), torch.float32, compile=False)
    parts = run_parts(config, None, corpus.tokenizer, objective, compute, Runtime())
    source = build_source(config, corpus.train, parts)
    assert all(tensor.is_pinned() for tensor in source.batches(0)[0].inputs.values())
    source.close()
