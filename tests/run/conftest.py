"""A text, a config that trains on it in a moment, and a run that did."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm import RunConfig, override, preset, save_config, train

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
