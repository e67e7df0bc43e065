"""The average of the weights: what is averaged, evaluated, saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minillm.training.average import WeightAverage
from minillm.training.checkpoint import checkpoints
from minillm.training.optim import Optimizer
from minillm.training.trainer import Trainer

Make = Callable[..., Trainer]
SPAN = 0.2
AVERAGED: dict[str, Any] = {"optim": {"name": "muon", "average": SPAN}, "save": {"every": 4, "keep": 9}}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def followed(make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, list[dict], list]:
    """A finished trainer, its weights before the first and after every step, and those that it evaluated."""
    trainer = make_trainer(tmp_path / "run", **AVERAGED)
    path, evaluated = [weights_of(trainer.model)], []
    step, evaluator = Optimizer.step, trainer.evaluator

    def stepped(self: Optimizer, lr_scale: float) -> None:
        step(self, lr_scale)
        path.append(weights_of(trainer.model))

    def evaluate(model: nn.Module) -> Any:
        evaluated.append((trainer.state.step, weights_of(model)))
        return evaluator(model)

    monkeypatch.setattr(Optimizer, "step", stepped)
    trainer.evaluator = evaluate
    trainer.fit()
    return trainer, path, evaluated


def average_of(path: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The average after the last step: each step's share is the difference of (s / t) ** (power + 1); in fp64."""
    last = len(path) - 1
    exponent = 1 / SPAN - 1
    shares = [(s / last) ** exponent - ((s - 1) / last) ** exponent for s in range(1, last + 1)]
    assert sum(shares) == pytest.approx(1)
    return {
        name: torch.stack([share * w[name].double() for share, w in zip(shares, path[1:], strict=True)]).sum(0)
        for name in path[0]
    }


def test_the_mean_age_is_the_given_fraction_of_the_steps():
    step = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = WeightAverage({step: "step"}, SPAN)
    for t in range(1, 1001):
        step.data.fill_(t)
        average.update(t)
        if t in (200, 1000):
            with average.swapped():
                assert 1 - step.item() / t == pytest.approx(SPAN, abs=0.005)


def test_the_averages_are_evaluated_and_saved_and_training_does_not_notice(
    followed: tuple[Trainer, list[dict], list], make_trainer: Make, tmp_path: Path
):
    trainer, path, evaluated = followed
    assert [step for step, _ in evaluated] == [4, 8, 12]
    for step, found in evaluated:
        expected = average_of(path[: step + 1])
        for name, w in found.items():
            torch.testing.assert_close(w.double(), expected[name], rtol=1e-5, atol=1e-6)
        saved = next(c for c in checkpoints(trainer.folder) if c.step == step)
        assert same(saved.model_weights(), {n: found[n] for n in saved.model_weights()})
    assert same(weights_of(trainer.model), path[-1])
    plain = make_trainer(tmp_path / "plain", optim={"name": "muon"})
    plain.fit()
    assert same(weights_of(plain.model), path[-1])


def test_averaging_can_begin_and_end_at_a_resume(make_trainer: Make, tmp_path: Path):
    make_trainer(tmp_path / "plain", optim={"name": "muon"}, train={"steps": 4}).fit()
    begun = make_trainer(tmp_path / "plain", **AVERAGED)
    begun.restore(checkpoints(tmp_path / "plain")[-1])
    own = weights_of(begun.model)
    with begun.average.swapped():
        assert same(weights_of(begun.model), own), "the average starts with the weights"
    make_trainer(tmp_path / "averaged", **AVERAGED | {"train": {"steps": 4}}).fit()
    ended = make_trainer(tmp_path / "averaged", optim={"name": "muon"})
    last = checkpoints(tmp_path / "averaged")[-1]
    ended.restore(last)
    assert not same(weights_of(ended.model), last.model_weights())
    assert same(weights_of(ended.model), weights_of(begun.model)), "both continue with the weights under training"


def test_a_checkpoint_before_the_first_step_is_restored(make_trainer: Make, tmp_path: Path):
    first = make_trainer(tmp_path, **AVERAGED)
    first.save()
    second = make_trainer(tmp_path, **AVERAGED)
    second.restore(checkpoints(tmp_path)[-1])
    assert same(weights_of(second.model), weights_of(first.model))


def test_contexts_may_be_nested_and_an_error_inside_restores_the_weights(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, **AVERAGED)
    trainer.fit()
    own, averaged = weights_of(trainer.model), trainer.average.swapped
    with pytest.raises(RuntimeError), averaged():
        average = weights_of(trainer.model)
        with averaged():
            assert same(weights_of(trainer.model), average) and not same(average, own)
        raise RuntimeError
    assert same(weights_of(trainer.model), own)


def test_a_state_without_one_of_the_weights_raises(make_trainer: Make, tmp_path: Path):
    trainer = make_trainer(tmp_path, **AVERAGED)
    trainer.fit()
    state = trainer.average.state_dict()
    del state["embed.tokens.weight/weight"]
    with pytest.raises(ValueError, match=r"such as embed\.tokens\.weight/weight"):
        trainer.average.load_state_dict(state)
