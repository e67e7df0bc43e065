"""N steps equal k steps, a stop, a resume, and N - k steps: bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minillm.training.checkpoint import checkpoints
from minillm.training.interrupt import StopRequest
from minillm.training.metrics import read_metrics
from minillm.training.trainer import Trainer

Make = Callable[..., Trainer]


def everything(trainer: Trainer) -> dict[str, Any]:
    """All that two equal runs have in common: weights, optimizer state, counters and metrics, but not the time."""
    own = dict(trainer.model.named_parameters())
    tensors = own | trainer.optimizer.state_dict() | trainer.average.state_dict()
    with trainer.average.swapped():
        tensors |= {f"average of {name}": p.detach().clone() for name, p in trainer.model.named_parameters()}
    counters = {key: value for key, value in vars(trainer.state).items() if key != "seconds"}
    lines = [{k: v for k, v in x.items() if k != "seconds"} for x in read_metrics(trainer.folder / "metrics.jsonl")]
    return {"tensors": {n: t.detach().numpy().tobytes() for n, t in tensors.items()}, "rest": (counters, lines)}


def stop_after(trainer: Trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until a stop is requested during `step`."""
    requests: list[StopRequest] = []
    enter, take = StopRequest.__enter__, trainer.take_step.update

    def entered(self: StopRequest) -> StopRequest:
        requests.append(self)
        return enter(self)

    def update(*args: Any, **kwargs: Any) -> Any:
        requests[0].requested = trainer.state.step + 1 == step
        return take(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__enter__", entered)
        patch.setattr(trainer.take_step, "update", update)
        outcome = trainer.fit()
    assert (outcome.reason, outcome.state.step) == ("interrupted", step)


@pytest.mark.parametrize(
    "optim",
    [
        {"name": "adamw"},
        {"name": "muon"},
        {"name": "muon", "embedding_lr": 3e-3, "vector_lr": 2e-3},
        {"name": "muon", "average": 0.2},
    ],
    ids=["adamw", "muon", "rates", "average"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_interrupting_twice_does_not_change_the_result(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optim: dict[str, Any], dtype: torch.dtype
):
    settings: dict[str, Any] = {"optim": optim, "dtype": dtype, "save": {"every": 5, "keep": 2}}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.fit()
    stopped = tmp_path / "stopped"
    first = make_trainer(stopped, **settings)
    stop_after(first, 3, monkeypatch)
    second = make_trainer(stopped, **settings)
    second.restore(checkpoints(stopped)[-1])
    stop_after(second, 8, monkeypatch)
    third = make_trainer(stopped, **settings)
    third.restore(checkpoints(stopped)[-1])
    assert third.fit().reason == "finished"
    assert everything(third) == everything(whole)
    assert all((tensor != 0).any() for tensor in third.optimizer.state_dict().values())


def test_resuming_from_an_older_checkpoint_repeats_the_same_steps(make_trainer: Make, tmp_path: Path):
    whole = make_trainer(tmp_path, save={"every": 5, "keep": 9})
    whole.fit()
    expected = everything(whole)
    again = make_trainer(tmp_path, save={"every": 5, "keep": 9})
    again.restore(next(c for c in checkpoints(tmp_path) if c.step == 5))
    again.fit()
    assert everything(again) == expected


def test_a_run_stopped_before_the_first_step_resumes_from_the_start(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = make_trainer(tmp_path / "whole")
    whole.fit()
    stopped = make_trainer(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__enter__", lambda self: setattr(self, "requested", True) or self)
        assert stopped.fit().state.step == 0
    assert [c.step for c in checkpoints(stopped.folder)] == [0]
    again = make_trainer(stopped.folder)
    again.restore(checkpoints(stopped.folder)[-1])
    again.fit()
    assert everything(again) == everything(whole)


def test_more_steps_than_before_follow_the_new_schedule(make_trainer: Make, tmp_path: Path):
    make_trainer(tmp_path, train={"steps": 4}).fit()
    longer = make_trainer(tmp_path, train={"steps": 9})
    longer.restore(checkpoints(tmp_path)[-1])
    longer.fit()
    rates = [x["lr"] for x in read_metrics(tmp_path / "metrics.jsonl") if "lr" in x]
    assert len(rates) == 9 and rates[4] > rates[3], "the old schedule had ended at step 4"


def test_fewer_steps_than_already_trained_take_no_step(make_trainer: Make, tmp_path: Path):
    make_trainer(tmp_path, train={"steps": 6}).fit()
    shorter = make_trainer(tmp_path, train={"steps": 4})
    shorter.restore(checkpoints(tmp_path)[-1])
    assert shorter.fit().state.step == 6


def test_patience_continues_after_resuming(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, train={"steps": 4}, eval={"every": 2})
    trainer.state.best_loss, trainer.state.best_step = 0.0, 1
    trainer.fit()
    again = make_trainer(tmp_path, train={"steps": 12, "patience": 3}, eval={"every": 2})
    again.restore(checkpoints(tmp_path)[-1])
    assert again.state.stale == 2
    outcome = again.fit()
    assert (outcome.reason, outcome.state.step) == ("early", 6)
