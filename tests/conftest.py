"""Settings of every test process, made before torch is imported; small texts, configs and runs that tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests run side by side, one process a core; OpenMP threads that spin for work would only take turns.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

from minillm import RunConfig, load_run, override, preset, save_config, train
from minillm.run import export_model

SETTINGS: dict[str, object] = {
    "model.d_model": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.max_seq_len": 16,
    "model.dropout": 0.1,
    "tokenizer.kind": "byte",
    "data.split": "tail",
    "optim.lr": 1e-2,
    "train.steps": 6,
    "train.global_batch": 4,
    "train.micro_batch": 3,
    "train.log_every": 1,
    "train.precision": "fp32",
    "train.device": "cpu",
    "eval.every": 2,
    "eval.max_tokens": 0,
    "save.every": 2,
    "sample.max_new_tokens": 3,
}

LEARNING: dict[str, object] = {
    "model.d_model": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.max_seq_len": 64,
    "data.split": "tail",
    "optim.name": "muon",
    "optim.lr": 1e-2,
    "train.steps": 150,
    "train.global_batch": 8,
    "train.precision": "fp32",
    "train.device": "cpu",
    "eval.every": 0,
    "eval.max_tokens": 0,
    "save.every": 0,
    "sample.max_new_tokens": 8,
}
BPE: dict[str, object] = {"tokenizer.kind": "bpe", "tokenizer.vocab_size": 400}
QWEN3: dict[str, object] = BPE | {
    "model.qk_norm": True,
    "model.num_kv_heads": 1,
    "model.d_ff": 48,
    "model.head_dim": 16,
}
MASKED: dict[str, object] = BPE | {"objective.name": "mlm", "sample.prompt": "7 and [MASK] make"}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "gpt2": ("gpt2", BPE),
    "llama": ("llama-small", {"model.num_kv_heads": 1, "model.d_ff": 48, "tokenizer.kind": "byte"}),
    "qwen3": ("llama-small", QWEN3),
    "qwen3-untied": ("llama-small", QWEN3 | {"model.tie_embeddings": False}),
    "char": ("gpt2", {"tokenizer.kind": "char"}),
    "bert": ("bert-tiny", MASKED),
    "roberta": ("bert-tiny", MASKED | {"model.num_token_types": 1}),
    "distilbert": ("bert-tiny", MASKED | {"model.num_token_types": 0}),
    "modernbert": (
        "modernbert-mini",
        MASKED
        | {"model.d_ff": 48, "model.window": 9}
        | {"model.layer_pattern": ("full", "local"), "model.local_rope_theta": 500.0},
    ),
    "t5": ("t5-mini", BPE | {"objective.name": "span", "model.d_ff": 48, "sample.prompt": "7 and <|extra_id_0|> make"}),
}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kilobytes of prose and figures."""
    path = tmp_path_factory.mktemp("text") / "my text.txt"
    path.write_text("".join(f"{n} and {n} make {2 * n}; so it is.\n" for n in range(60)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def config(text: Path) -> RunConfig:
    """Trains on `text` in a fraction of a second."""
    here = {"data.source": str(text), "data.cache": str(text.parent / "cache")}
    return override(RunConfig(model=preset("gpt2")), SETTINGS | here)


@pytest.fixture(scope="session")
def config_file(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file for the command line."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    save_config(config, path)
    return path


@pytest.fixture(scope="session")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps; not to be changed."""
    return train(config, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def copy_of_run(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the finished run that may be changed."""
    return lambda: Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each family that has learned something."""
    folder = tmp_path_factory.mktemp("exchange")
    text = folder / "sums.txt"
    text.write_text("".join(f"{n} and {n} make {2 * n}; so it is.\n" for n in range(400)), encoding="utf-8")
    here = {"data.source": str(text), "data.cache": str(folder / "cache")}

    def make(name: str) -> Path:
        shape, settings = FAMILIES[name]
        if not (folder / name).exists():
            train(override(RunConfig(model=preset(shape)), LEARNING | settings | here), folder / name)
        return folder / name

    return make


@pytest.fixture
def exported(run_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Exports a family's run, and checks that the comparison took place."""
    said: list[str] = []

    def export(name: str) -> Path:
        out = export_model(load_run(run_of(name)), tmp_path / f"{name}-out", say=said.append)
        assert "checked with transformers" in said[-1] and "equal ids for" in said[-1]
        return out

    return export
