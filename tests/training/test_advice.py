"""What is said of an evaluation that was not the best: divergence is told from overfitting."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minillm.data.datasets.corpus import Tokens
from minillm.training.checkpoint import checkpoints
from minillm.training.divergence import warning
from minillm.training.state import TrainState
from minillm.training.trainer import Trainer

Make = Callable[..., Trainer]


def advice(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def test_a_learning_rate_of_one_without_clipping_warns_of_divergence_with_a_remedy(
    make_trainer: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings: dict[str, Any] = {"optim": {"lr": 1.0, "clip": 0.0}, "schedule": {"warmup_steps": 0}}
    trainer = make_trainer(tmp_path, train={"steps": 24}, eval={"every": 4, "at_start": True}, **settings)
    trainer.fit()
    assert trainer.state.train_loss > trainer.state.start_loss
    said = advice(capsys)
    assert said and all("training diverges" in line and "overfit" not in line for line in said)
    assert all(remedy in said[0] for remedy in ("Lower optim.lr", "optim.clip", "schedule.warmup_steps"))


def test_a_memorized_text_warns_of_overfitting_with_a_remedy(
    make_trainer: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    by_heart = Tokens(np.random.default_rng(3).integers(0, 20, 40).astype("uint16"), 21)
    settings: dict[str, Any] = {"optim": {"lr": 1e-2}, "shape": {"dropout": 0.0}, "train_text": by_heart}
    trainer = make_trainer(tmp_path, train={"steps": 120}, eval={"every": 20}, **settings)
    trainer.fit()
    assert trainer.state.train_loss < trainer.state.start_loss
    said = advice(capsys)
    assert said and all("the model overfits" in line and "diverges" not in line for line in said)
    assert f"best checkpoint (step {trainer.state.best_step}) is kept; train.patience stops early" in said[-1]


def test_a_healthy_run_has_no_warning(make_trainer: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_trainer(tmp_path, train={"steps": 12}, eval={"every": 4}).fit()
    assert advice(capsys) == []


def test_the_initial_loss_is_kept_when_resuming(make_trainer: Make, tmp_path: Path):
    first = make_trainer(tmp_path, train={"steps": 4})
    first.fit()
    again = make_trainer(tmp_path, train={"steps": 8})
    again.restore(checkpoints(tmp_path)[-1])
    again.fit()
    assert again.state.start_loss == first.state.start_loss < math.inf


@pytest.mark.parametrize(
    ("train_loss", "start_loss", "val_loss", "word"),
    [
        (4.1, 4.0, 9.0, "diverges"),
        (4.0, 4.0, 9.0, "diverges"),
        (3.0, 4.0, 9.0, "overfits"),
        (3.0, math.inf, 9.0, "overfits"),  # a checkpoint of an older version does not tell where training began
        (3.0, 4.0, 3.2, None),
        (math.nan, 4.0, 3.2, "diverges"),
        (math.inf, math.inf, 3.2, None),  # before the first step
    ],
)
def test_overfitting_requires_that_the_training_loss_has_fallen(
    train_loss: float, start_loss: float, val_loss: float, word: str | None
):
    said = warning(TrainState(train_loss=train_loss, start_loss=start_loss, best_step=2), val_loss)
    assert said is None if word is None else said is not None and word in said
