"""The loop: what it logs, measures and keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics
from minillm.training.optim import Muon
from minillm.training.schedule import lr_scale
from minillm.training.trainer import Trainer

Make = Callable[..., Trainer]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_loss_is_that_of_uniform_predictions(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, train={"steps": 1}, shape={"dropout": 0.0})
    trainer.fit()
    (first, _) = read_metrics(tmp_path / "metrics.jsonl")
    assert first["loss"] == pytest.approx(math.log(23), abs=0.05)


def test_a_single_batch_can_be_overfitted(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(
        tmp_path,
        shape={"dropout": 0.0, "d_model": 32},
        optim={"lr": 1e-2, "weight_decay": 0.0},
        train={"steps": 60, "log_every": 60},
        eval={"every": 0},
    )
    batches = trainer.source.batches(0)
    trainer.source.batches = lambda step: batches  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit()
    (last, _) = read_metrics(tmp_path / "metrics.jsonl")
    assert last["loss"] < 0.2  # only what follows a row's first token cannot be known


def test_the_metrics_have_the_documented_keys_and_values(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, train={"steps": 8, "log_every": 2}, optim={"lr": 3e-3})
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [line for line in lines if "loss" in line]
    evaluated = [line for line in lines if "val_loss" in line]
    assert all(list(x) == ["step", "tokens", "seconds", "loss", "lr", "grad_norm"] for x in trained)
    assert all(list(x) == ["step", "seconds", "val_loss", "bits_per_byte"] for x in evaluated)
    assert [x["step"] for x in trained] == [2, 4, 6, 8] and [x["step"] for x in evaluated] == [4, 8]
    schedule = trainer.recipe.schedule
    assert [x["lr"] for x in trained] == [3e-3 * lr_scale(s, schedule, 8) for s in (2, 4, 6, 8)]
    # 500 tokens are 41 windows of 12 and one of 8: in 64 rows the short one comes once or twice
    assert 64 * 12 - 8 <= trained[-1]["tokens"] == trainer.state.tokens <= 64 * 12 - 4
    seconds = [x["seconds"] for x in lines]
    assert seconds == sorted(seconds) and evaluated[0]["seconds"] == trained[1]["seconds"], "training time alone"


def test_the_last_step_is_always_evaluated(make_trainer: Make, tmp_path: Path):
    for every, expected in ((0, [5]), (3, [3, 5]), (5, [5])):
        folder = tmp_path / str(every)
        make_trainer(folder, train={"steps": 5}, eval={"every": every}).fit()
        assert [x["step"] for x in read_metrics(folder / "metrics.jsonl") if "val_loss" in x] == expected


def test_evaluation_and_sampling_do_not_affect_training(make_trainer: Make, tmp_path: Path):
    def disturb() -> None:
        torch.manual_seed(5)
        torch.rand(9)
        np.random.seed(3)

    quiet = make_trainer(tmp_path / "quiet", eval={"every": 0})
    busy = make_trainer(tmp_path / "busy", eval={"every": 1}, save={"every": 1}, on_evaluation=disturb)
    quiet.fit()
    busy.fit()
    assert same(weights(quiet), weights(busy))
    losses = [[x["loss"] for x in read_metrics(t.folder / "metrics.jsonl") if "loss" in x] for t in (quiet, busy)]
    assert losses[0] == losses[1]


def test_without_dropout_micro_batches_do_not_change_training(make_trainer: Make, tmp_path: Path):
    runs = [
        make_trainer(tmp_path / str(micro), train={"micro_batch": micro, "steps": 5}, shape={"dropout": 0.0})
        for micro in (None, 8, 3, 1, 100)
    ]
    for run in runs:
        run.fit()
    for other in runs[1:]:
        for name, p in weights(runs[0]).items():
            torch.testing.assert_close(weights(other)[name], p, rtol=1e-4, atol=1e-6)


class Told:
    """Stands for evaluation: gives the losses it was told."""

    def __init__(self, trainer: Trainer, losses: list[float]) -> None:
        self.losses = iter(losses)
        real = trainer.evaluator
        trainer.evaluator = lambda model: self.answer(real(model))

    def answer(self, real: Any) -> Any:
        loss = next(self.losses)
        return type(real)({"lm": loss * 100}, {"lm": 100}, {"lm": 0}, 100)


def test_the_best_and_the_newest_are_kept(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, eval={"every": 2}, save={"every": 3, "keep": 2})
    Told(trainer, [3.0, 1.5, 2.0, 1.6, 1.7, 1.8])  # at 2, 4, ..., 12
    outcome = trainer.fit()
    assert (outcome.state.best_step, outcome.state.best_loss) == (4, 1.5)
    assert [c.step for c in checkpoints(tmp_path)] == [4, 9, 12]
    assert checkpoints(tmp_path)[-1].state.train.best_step == 4


def test_the_best_is_still_kept_after_a_resume(make_trainer: Make, tmp_path: Path):
    first = make_trainer(tmp_path, train={"steps": 6}, eval={"every": 2}, save={"keep": 1})
    Told(first, [1.5, 2.0, 2.0])
    first.fit()
    second = make_trainer(tmp_path, train={"steps": 12}, eval={"every": 2}, save={"keep": 1})
    second.restore(checkpoints(tmp_path)[-1])
    Told(second, [1.9, 1.8, 1.7])
    second.fit()
    assert [c.step for c in checkpoints(tmp_path)] == [2, 12]


def test_patience_ends_the_run_with_a_message(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, train={"patience": 2}, eval={"every": 2})
    Told(trainer, [2.0, 1.5, 1.6, 1.5, 9.0, 9.0])
    outcome = trainer.fit()
    assert (outcome.reason, outcome.state.step) == ("early", 8), "an equal loss is no better one"
    assert checkpoints(tmp_path)[-1].step == 8


def test_without_patience_a_run_never_ends_early(make_trainer: Make, tmp_path: Path):
    endless = make_trainer(tmp_path / "a", eval={"every": 2})
    Told(endless, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert endless.fit().reason == "finished"
    at_the_end = make_trainer(tmp_path / "b", train={"patience": 1}, eval={"every": 0})
    at_the_end.state.best_loss = 0.0
    assert at_the_end.fit().reason == "finished"


def test_overfitting_is_reported(make_trainer: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    trainer = make_trainer(tmp_path, train={"steps": 4}, eval={"every": 2})
    trainer.state.train_loss = 0.2
    trainer.state.best_loss, trainer.state.best_step = 2.5, 1
    Told(trainer, [9.0, 1.0])
    trainer.fit()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "best checkpoint (step 1) is kept" in warnings[0] and "train.patience" in warnings[0]


def test_a_checkpoint_can_be_written_before_the_first_step(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path)
    trainer.save()
    fresh = make_trainer(tmp_path)
    fresh.restore(checkpoints(tmp_path)[0])
    assert fresh.state.step == 0 and same(weights(fresh), weights(trainer))


def test_a_finished_run_that_is_resumed_does_nothing(make_trainer: Make, tmp_path: Path):
    make_trainer(tmp_path).fit()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    again = make_trainer(tmp_path)
    again.restore(checkpoints(tmp_path)[-1])
    assert again.fit().reason == "finished"
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_checkpoints_that_are_damaged_or_of_another_optimizer_are_not_restored(make_trainer: Make, tmp_path: Path):
    make_trainer(tmp_path, train={"steps": 3}).fit()
    last = checkpoints(tmp_path)[-1]
    with pytest.raises(ValueError, match=r"optim\.name"):
        make_trainer(tmp_path, optim={"name": "muon"}).restore(last)
    file = last.path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*to use its newest undamaged"):
        make_trainer(tmp_path).restore(last)


def test_muon_computes_in_the_precision_of_the_run(make_trainer: Make, tmp_path: Path):
    for dtype in (torch.float32, torch.bfloat16):
        muon = make_trainer(tmp_path, optim={"name": "muon"}, dtype=dtype).optimizer.optimizers[-1]
        assert isinstance(muon, Muon) and muon.dtype == dtype


def test_progress_shows_speed_and_time_left(
    make_trainer: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("minillm.training.progress.PLAIN_INTERVAL", 0.0)
    make_trainer(tmp_path, train={"steps": 2}, eval={"every": 0}).fit()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("step 1/2: loss 3.") and "tokens/s" in lines[0] and lines[0].endswith("left")
