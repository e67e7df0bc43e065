"""Reward models: the loss by hand, one score for a text whatever its batch, and runs that learn a preference."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from minillm import load_run
from minillm.cli import main
from minillm.data.datasets.preferences import PreferenceIds
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.objectives.answers import AnswerLayout
from minillm.objectives.reward import Reward
from minillm.run import predict
from minillm.training.metrics import read_metrics

EOS = PAD = 20
LAYOUT = AnswerLayout(before=(21,), after=(EOS,), max_len=16)
SHAPE: dict[str, Any] = {"vocab_size": 23, "max_seq_len": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}


def pair(prompt: int, chosen: int, rejected: int, margin: float = 0.0) -> PreferenceIds:
    rng = np.random.default_rng(prompt)
    first, second, third = (rng.integers(0, 21, n) for n in (prompt, chosen, rejected))
    return PreferenceIds(first, second, third, margin, False, "here")


PAIRS = [pair(3, 2, 5), pair(1, 4, 1, 0.5), pair(0, 1, 3, -0.25)]


def rng(row: int) -> np.random.Generator:
    return np.random.default_rng(row)


@pytest.mark.parametrize("centering", [0.0, 0.1])
def test_loss_and_gradient_equal_an_fp64_reference(centering: float):
    objective = Reward(PAD, layout=LAYOUT, centering=centering)
    batch = objective.collate(PAIRS, rng)
    scores = torch.randn(6, 1, dtype=torch.float64).requires_grad_()
    ours = scores.detach().float().requires_grad_()
    found = (
        objective.loss(Output(ours, {"class": ours}), batch.labels, training=True)["pair"].loss / batch.counts["pair"]
    )
    terms = []
    for i, example in enumerate(PAIRS):
        ahead = scores[2 * i, 0] - scores[2 * i + 1, 0] - example.margin
        terms.append(
            -torch.log(1 / (1 + torch.exp(-ahead))) + centering * (scores[2 * i, 0] + scores[2 * i + 1, 0]) ** 2
        )
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    found.backward()
    expected.backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad.double(), scores.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_loss_equals_that_of_trl():
    trl = pytest.importorskip("trl")
    objective, scores = Reward(PAD, layout=LAYOUT, centering=0.1), torch.randn(6, 1)
    batch = objective.collate(PAIRS, rng)
    same = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    metrics = {"eval": dict.fromkeys(("min_reward", "mean_reward", "max_reward", "accuracy", "margin"))}
    metrics["eval"] = {name: [] for name in metrics["eval"]}
    arguments = SimpleNamespace(center_rewards_coefficient=0.1)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), args=arguments, accelerator=same, _metrics=metrics, _total_train_tokens=0
    )
    logits = torch.cat([scores[::2], scores[1::2]])
    inputs = {"margin": batch.labels["pair"]}
    expected = trl.RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    found = objective.loss(Output(scores, {"class": scores}), batch.labels, training=True)["pair"].loss / 3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [{}, {"family": "bert", "norm_order": "post"}], ids=["gpt", "bert"])
def test_scores_do_not_depend_on_the_batch_or_on_tokens_like_padding(family: dict[str, Any]):
    model = build_model(ModelConfig(**SHAPE, **family, heads=("class:1",), init_std=0.3))
    model.init_weights(torch.Generator().manual_seed(1))
    model.eval()
    objective = Reward(PAD, layout=LAYOUT)

    def scores(examples: list[PreferenceIds]) -> np.ndarray:
        batch = objective.collate(examples, rng)
        with torch.no_grad():
            return objective.measure(model(**batch.inputs), batch)

    with_pad_ids = [*PAIRS, pair(4, 3, 2)._replace(prompt=np.array([PAD, 3, PAD, PAD]))]
    together = scores(with_pad_ids)
    np.testing.assert_allclose(together, np.concatenate([scores([one]) for one in with_pad_ids]), rtol=1e-4, atol=1e-6)
    assert np.ptp(together) > 1e-3
    row = LAYOUT.rows(PAIRS[0])[0].ids
    assert list(row[[0, -1]]) == [21, EOS]
    hidden = model(torch.from_numpy(row)[None])
    assert hidden.logits["class"].item() == pytest.approx(together[0, 0], rel=1e-4, abs=1e-6)


def test_the_margin_asks_for_more():
    equal = torch.zeros(2, 1)
    objective = Reward(PAD, layout=LAYOUT)
    losses = {
        margin: objective.loss(Output(equal, {"class": equal}), {"pair": torch.tensor([margin])}, training=False)
        for margin in (0.0, 1.0)
    }
    assert losses[0.0]["pair"].loss.item() == pytest.approx(math.log(2))
    assert losses[1.0]["pair"].loss.item() == pytest.approx(math.log(1 + math.e))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs of which the answer that says `good` is preferred."""
    path = tmp_path / "pairs.jsonl"
    records = [
        {"prompt": f"{n} and {n} make", "chosen": f" good {2 * n}", "rejected": f" bad {3 * n}", "by": 0.5}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "adapter"), [("gpt2", ["--adapter.name", "lora"]), ("bert", [])])
def test_a_run_learns_the_preference_and_scores_texts(
    run_of: Callable[[str], Path], pairs: Path, tmp_path: Path, name: str, adapter: list[str], capsys
):
    keys = ["--train.precision", "fp32", "--train.device", "cpu", "--train.global_batch", "8", "--eval.every", "10"]
    keys += ["--train.steps", "60", "--optim.lr", "3e-3", "--data.margin_field", "by"]
    start = ["train", "--init-from", str(run_of(name)), "--objective.name", "reward", "--data", str(pairs), *keys]
    run = tmp_path / "run"
    more = ["--data.cache", str(tmp_path / "cache"), *adapter]
    assert main([*start, *more, "--out", str(run)]) == 0
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "val_loss" in line]
    assert lines[0]["val_loss"] == pytest.approx(math.log(1 + math.exp(0.5)), abs=0.1)
    assert lines[-1]["pair_accuracy"] == 1.0 and lines[-1]["reward_margin"] > 0.1
    best = load_run(run)
    assert list(best.model.heads) == ["class"] and best.checkpoint.step == 60, "the one with the lowest loss"

    capsys.readouterr()
    assert main(["eval", str(run), "--data", str(pairs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pair_accuracy"] > 0.9 and found["targets"] == 40
    assert main(["predict", str(run), "7 and 7 make good 14", "7 and 7 make bad 21", "--json"]) == 0
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["score"] > bad["score"] and good["text"] == "7 and 7 make good 14"
    first = predict(run, source=pairs)[0]
    assert first["chosen_score"] > first["rejected_score"] and first["prompt"] == "0 and 0 make"
    assert predict(run, [first["prompt"] + first["chosen"]])[0]["score"] == pytest.approx(
        first["chosen_score"], rel=0.2
    )
