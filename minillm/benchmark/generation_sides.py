"""Generation by one run's weights: the prompts, and which programs read them in which dtype.

decode: tokens after a short prompt, one row, greedy or sampled. prefill: a long prompt and one token. batch: many
uneven prompts.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minillm.benchmark.machine import Machine
from minillm.benchmark.turns import Side
from minillm.cli.output import SPIN_COUNT
from minillm.config import load_config
from minillm.nn.config import ModelConfig
from minillm.run import export_model, load_run, train

NEW, NUM_PROMPTS = 128, 64
"""Tokens that a turn of `decode` generates, and prompts of `batch`."""
LARGE = 50_000_000
"""A model with more parameters generates half as many tokens per turn, so that every side gets its turns in time."""
HERE = "minillm.benchmark.generators"
OURS, PEER = {"GOMP_SPINCOUNT": SPIN_COUNT}, {"GOMP_SPINCOUNT": "300000"}
"""`minillm sample` sets the first on an idle machine; the second is what GNU's OpenMP does by itself."""
EXPORTED = "exported"
"""Folder for transformers and CTranslate2."""
GGUF = {"fp32": "f32", "int8": "q8_0", "int4": "q4_1"}
"""dtype of a side -> type of llama.cpp's file."""


class Job(NamedTuple):
    """What all sides do, in token ids."""

    prompts: list[list[int]]
    num_new: int
    temperature: float = 0.0
    """0: greedy."""
    top_k: int = 0
    """0: all tokens."""
    top_p: float = 1.0

    def describe(self) -> str:
        """Such as `sampled at temperature 0.8, top-k 50`; empty if it is greedy."""
        if not self.temperature:
            return ""
        limits = f", top-k {self.top_k}" * bool(self.top_k) + f", top-p {self.top_p:g}" * (self.top_p < 1)
        return f"sampled at temperature {self.temperature:g}{limits}"


SAMPLED: tuple[dict[str, Any], ...] = ({"temperature": 0.8, "top_k": 50, "top_p": 0.95}, {"temperature": 1.0})
"""How `decode` samples after the greedy measurement."""


def make_run(folder: Path) -> Path:
    """A run of 13.8 M parameters to measure with: Qwen3's shape, 6 layers of width 384, trained for one step."""
    shape = {"num_layers": 6, "d_model": 384, "num_heads": 6, "num_kv_heads": 6, "d_ff": 1024, "max_seq_len": 1024}
    keys: dict[str, object] = {f"model.{key}": value for key, value in shape.items()}
    keys |= {"train.steps": 1, "train.global_batch": 4, "data.seq_len": 128, "eval.every": 0, "eval.max_tokens": 512}
    return train(load_config("gpt-nano", keys | {"sample.max_new_tokens": 1}), folder)


def model_config(run: Path) -> ModelConfig:
    """The shape of the model of a run."""
    return load_config(run / "config.toml").model


def make_jobs(work: str, run: Path, parameters: int) -> list[Job]:
    """The jobs of a work; their prompts are ids that depend on the vocabulary alone."""
    config = model_config(run)
    largest = min(256, (config.vocab_size or 256) // 2)
    generator = torch.Generator().manual_seed(0)

    def prompt(length: int) -> list[int]:
        return torch.randint(largest, (length,), generator=generator).tolist()

    if work == "prefill":
        return [Job([prompt(min(512, config.max_seq_len - 2))], 1)]
    size = NEW if parameters <= LARGE else NEW // 2
    if work == "batch":
        lengths = torch.randint(4, 64, (NUM_PROMPTS,), generator=generator).tolist()
        return [Job([prompt(length) for length in lengths], min(size // 2, config.max_seq_len - 64))]
    greedy = Job([prompt(16)], min(size, config.max_seq_len - 17))
    return [greedy, *(greedy._replace(**settings) for settings in SAMPLED)]


def sides(work: str, machine: Machine, peers: Sequence[str], run: Path, folder: Path, job: Job) -> list[Side]:
    """Ours first, then every installed peer, each in the dtypes that it is fast in.

    Text is sampled without drafts and without quantized weights.
    """
    sampled, content = job.temperature > 0, {"job": job._asdict()}
    found = _ours(work, machine, run, content, sampled=sampled)
    kinds = {"transformers": machine.fast, "ctranslate2": ("fp32",) if sampled else ("fp32", "int8")}
    if set(kinds) & set(peers):
        write_exports(run, folder, [EXPORTED])
        options = content | {"folder": str(folder / EXPORTED)}
        for name, dtypes in kinds.items():
            build = f"{HERE}:{name}"
            found += [Side(name, d, build, options | {"dtype": d}, environment=PEER) for d in dtypes if name in peers]
    if "xllamacpp" in peers and work != "batch":
        files = {dtype: f"model-{kind}.gguf" for dtype, kind in GGUF.items() if dtype == "fp32" or not sampled}
        write_exports(run, folder, files.values())
        for dtype, name in files.items():
            options, note = content | {"file": str(folder / name)}, GGUF[dtype].upper()
            found.append(Side("llama.cpp", dtype, f"{HERE}:llama_cpp", options, note, PEER))
    return found


def _ours(work: str, machine: Machine, run: Path, content: dict[str, Any], *, sampled: bool) -> list[Side]:
    """With the defaults of `minillm sample`, then in each dtype without drafts."""
    build, options, note = f"{HERE}:minillm", content | {"run": str(run)}, "without drafts"
    how = note if sampled else "as `minillm sample` runs it"
    first = Side("minillm", "auto", build, options | {"drafts": not sampled}, how, OURS)
    kinds: dict[str, dict[str, Any]] = {"fp32": {"dtype": "fp32"}}
    if work == "decode" or "bf16" in machine.fast:  # products of many rows may be tens of times slower than in fp32
        kinds["bf16"] = {"dtype": "bf16"}
    kinds |= {} if sampled else {"int8": {"quantize": 8}, "int4": {"quantize": 4}}
    rest = [Side("minillm", dtype, build, options | {"load": load}, note, OURS) for dtype, load in kinds.items()]
    return [first, *rest]


def write_exports(run: Path, folder: Path, names: Iterable[str]) -> None:
    """Write those exports of a run that do not exist yet, such as `exported` or `model-q8_0.gguf`."""
    missing = [folder / name for name in names if not (folder / name).exists()]
    loaded = load_run(run, device="cpu") if missing else None
    for file in missing:
        assert loaded is not None
        dtype: Any = file.stem.partition("-")[2] if file.suffix else None
        export_model(loaded, file, dtype=dtype, say=lambda message: None)


def limit(work: str, parameters: int, machine: Machine, side: Side) -> float | None:
    """Tokens per second if only the weights were read once for each token; None for other works than decode."""
    size = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.5}.get(side.dtype)
    return None if work != "decode" or size is None else machine.read / (parameters * size)
