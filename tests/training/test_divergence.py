"""Steps that are not finite, and memory that does not suffice."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minillm.objectives.base import Score
from minillm.training.checkpoint import checkpoints
from minillm.training.divergence import TrainingDiverged
from minillm.training.metrics import read_metrics
from minillm.training.trainer import Trainer

Make = Callable[..., Trainer]


def poison(trainer: Trainer, *steps: int) -> None:
    """Make the loss of these steps NaN."""
    real = trainer.take_step.objective.loss

    def loss(output: Any, labels: Any, *, training: bool) -> dict[str, Score]:
        factor = math.nan if training and trainer.state.step + 1 in steps else 1.0
        scores = real(output, labels, training=training)
        return {name: score._replace(loss=score.loss * factor) for name, score in scores.items()}

    object.__setattr__(trainer.take_step.objective, "loss", loss)


def test_a_bad_step_is_skipped_counted_and_reported_with_its_rows(
    make_trainer: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trainer = make_trainer(tmp_path, train={"steps": 6, "log_every": 4}, eval={"every": 0})
    poison(trainer, 3, 5)
    outcome = trainer.fit()
    assert outcome.state.skipped == 2
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    said = [line for line in capsys.readouterr().err.splitlines() if "not applied" in line]
    assert [line.split(":")[0] for line in said] == ["step 3", "step 5"]
    rows = trainer.source.rows(2)  # pyright: ignore[reportAttributeAccessIssue]
    assert "loss nan" in said[0] and "(1 so far)" in said[0] and "(2 so far)" in said[1]
    assert ", ".join(f"{row.start}:{row.stop}" for row in rows) in said[0]
    lines = [x for x in read_metrics(tmp_path / "metrics.jsonl") if "loss" in x]
    assert [(x["step"], x["loss"] is None, x.get("skipped")) for x in lines] == [
        (3, True, 1),
        (4, False, None),
        (5, True, 2),
    ]


def test_a_bad_step_changes_neither_weights_nor_optimizer(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, train={"steps": 2})
    trainer.fit()
    before = {n: t.clone() for n, t in trainer.optimizer.state_dict().items()}
    again = make_trainer(tmp_path, train={"steps": 3})
    again.restore(checkpoints(tmp_path)[-1])
    poison(again, 3)
    again.fit()
    assert all(torch.equal(t, again.optimizer.state_dict()[n]) for n, t in before.items())


@pytest.mark.parametrize("saved", [True, False])
def test_five_bad_steps_in_a_row_stop_training_and_name_the_last_checkpoint(
    make_trainer: Make, tmp_path: Path, saved: bool
):
    trainer = make_trainer(tmp_path, save={"every": 2 if saved else 0}, eval={"every": 0})
    poison(trainer, 3, 5, 6, 7, 8, 9, 10)
    with pytest.raises(TrainingDiverged) as caught:
        trainer.fit()
    line = str(caught.value)
    assert isinstance(caught.value, ValueError) and "\n" not in line
    assert "5 steps in a row up to step 9" in line and "--resume and a lower optim.lr" in line
    if saved:
        assert f"the last checkpoint is step 8 in {tmp_path}" in line
        assert trainer.state.step == 9 and checkpoints(tmp_path)[-1].step == 8
    else:
        assert "no checkpoint yet" in line and checkpoints(tmp_path) == []
    assert [x["step"] for x in read_metrics(tmp_path / "metrics.jsonl")][-1] == 9, "the last bad step is logged too"


class Scale:
    """An fp16 run's loss scale."""

    def __init__(self, value: float) -> None:
        self.value = value

    def is_enabled(self) -> bool:
        return True

    def get_scale(self) -> float:
        return self.value

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss

    def unscale_(self, optimizer: Any) -> None: ...

    def update(self) -> None: ...

    def state_dict(self) -> dict[str, float]:
        return {}


def test_fp16_overflow_is_divergence_only_below_scale_one(make_trainer: Make, tmp_path: Path):
    for value in (1024.0, 0.5):
        trainer = make_trainer(tmp_path / str(value), eval={"every": 0})
        scale: Any = Scale(value)
        trainer.take_step.scaler = trainer.watch.scaler = scale
        poison(trainer, *range(2, 9))
        if value > 1:
            assert trainer.fit().state.skipped == 0
        else:
            with pytest.raises(TrainingDiverged):
                trainer.fit()


def too_large(trainer: Trainer, limit: int, error: RuntimeError) -> list[int]:
    """Let forward passes of more than `limit` rows run out of memory, after one micro-batch has passed."""
    seen: list[int] = []

    def check(module: torch.nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        if module.training:
            seen.append(kwargs["tokens"].size(0))
            if seen[-1] > limit and len(seen) > 1:
                raise error

    trainer.model.register_forward_pre_hook(check, with_kwargs=True)
    return seen


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_halves_the_micro_batch_with_the_same_result_and_one_message(
    make_trainer: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: RuntimeError
):
    settings: dict[str, Any] = {"shape": {"dropout": 0.0}, "eval": {"every": 0}}
    plain = make_trainer(tmp_path / "plain", train={"steps": 3, "micro_batch": 2}, **settings)
    plain.fit()
    tight = make_trainer(tmp_path / "tight", train={"steps": 3, "micro_batch": 4}, **settings)
    seen = too_large(tight, 2, error)
    tight.fit()
    assert seen == [4, 4, *[2] * 12]
    for name, p in plain.model.named_parameters():
        assert torch.equal(p, tight.model.get_parameter(name)), name
    said = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert len(said) == 1 and "train.micro_batch is now 2" in said[0]


def test_a_micro_batch_larger_than_the_batch_is_halved_from_the_batch(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, train={"steps": 1, "micro_batch": 64}, eval={"every": 0})
    seen: list[int] = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: refuse(seen, kwargs["tokens"].size(0), 4), with_kwargs=True
    )
    batches = trainer.source.batches(0)
    trainer._gradient_within_memory(1, batches, {"lm": 96.0})
    assert seen == [8, 4, 4]


def refuse(seen: list[int], size: int, limit: int) -> None:
    seen.append(size)
    if size > limit:
        raise torch.OutOfMemoryError("no")


def test_a_single_row_that_does_not_fit_is_a_one_line_error(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path)
    too_large(trainer, 0, torch.OutOfMemoryError("no"))
    with pytest.raises(ValueError, match=r"out of memory with train\.micro_batch 1; set a smaller"):
        trainer.fit()


def test_other_errors_are_not_mistaken_for_out_of_memory(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path)
    too_large(trainer, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        trainer.fit()
