"""Compiled training is the same training; slow, since a compiler has to start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from minillm import RunConfig, override, train
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of torch
@pytest.mark.timeout(600)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="needs a C++ compiler")
def test_a_compiled_run_has_the_names_and_the_losses_of_an_eager_one(config: RunConfig, tmp_path: Path):
    same: dict[str, object] = {"model.dropout": 0.0, "train.steps": 3}
    eager = train(override(config, same), tmp_path / "eager")
    compiled = train(override(config, {**same, "train.compile": "on"}), tmp_path / "compiled")
    names = [load_file(checkpoints(run)[-1].path / "model.safetensors").keys() for run in (eager, compiled)]
    assert names[0] == names[1]
    losses = [[x["loss"] for x in read_metrics(run / "metrics.jsonl") if "loss" in x] for run in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
