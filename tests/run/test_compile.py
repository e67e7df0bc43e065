"""Compiled training is the same training; slow, since a compiler has to start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from minillm import RunConfig, finetune_config, override, train
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


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(600)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="needs a C++ compiler")
def test_a_compiled_adapter_has_the_losses_of_an_eager_one(finished: Path, config: RunConfig, tmp_path: Path):
    keys: dict[str, object] = {"model.dropout": 0.0, "train.steps": 3, "adapter.name": "lora", "train.log_every": 1}
    keys |= {"data.source": config.data.source, "data.cache": config.data.cache, "train.precision": "fp32"}
    keys |= {"train.device": "cpu", "data.split": "tail"}
    losses = []
    for compile in ("off", "on"):
        changed = finetune_config(finished, keys | {"train.compile": compile})
        run = train(changed, tmp_path / compile, init_from=finished)
        losses.append([x["loss"] for x in read_metrics(run / "metrics.jsonl") if "loss" in x])
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-5)
