"""Commands run in this process, on a stand-in for a trained run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from minillm import run
from minillm.cli import main
from minillm.config import RunConfig, load_config
from minillm.training.state import Outcome as Ended
from minillm.training.state import TrainState


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Run `minillm ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINILLM_DEBUG", raising=False)

    def call(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


class Completion(NamedTuple):
    text: str
    finish_reason: str
    score: float | None = None


@dataclass
class FakeRun:
    """What a command asked of `minillm.run`, and what it gets back."""

    folder: Path
    config: RunConfig
    asked: dict[str, Any]
    continues: bool = True
    signal: int | None = None

    def require_writer(self) -> None:
        self.asked["writer"] = True

    def describe(self) -> str:
        return "runs/fake: step 7"


class FakeEvaluation(NamedTuple):
    loss: float
    perplexity: float
    bits_per_byte: float
    targets: int
    guess: None = None

    def figures(self) -> dict[str, float]:
        return {"bits_per_byte": self.bits_per_byte}


@pytest.fixture
def fake_run(monkeypatch, tmp_path: Path) -> FakeRun:
    """`minillm.run` with nothing behind it: it records what it is asked and answers at once."""
    config = load_config()
    config = replace(config, sample=replace(config.sample, prompt="Once", top_k=5))
    fake = FakeRun(tmp_path / "runs" / "fake", config, {})

    def train_run(config: RunConfig, out: Path | None = None, *, resume: bool = False) -> Ended:
        fake.asked |= {"config": config, "out": out, "resume": resume}
        return Ended(TrainState(), "interrupted" if fake.signal else "finished", fake.signal, fake.folder)

    def load_run(folder: Path | None = None) -> FakeRun:
        fake.asked["folder"] = folder
        return fake

    def sample(loaded: FakeRun, config: Any, on_text: Any = None) -> list[Completion]:
        fake.asked["sample"] = config
        if on_text is not None:
            for piece in (" upon", " a time"):
                on_text(0, piece)
        return [Completion(" upon a time", "length")] * config.num_samples

    def search(loaded: FakeRun, prompt: str, config: Any) -> list[Completion]:
        fake.asked["search"] = (prompt, config)
        return [Completion(f" text {rank}", "eos", -float(rank)) for rank in range(config.num_best)]

    def fill(loaded: FakeRun, text: str, *, top_k: int = 5) -> None:
        raise ValueError("runs/fake fills no gaps")

    def evaluate(loaded: FakeRun, source: str | None = None) -> FakeEvaluation:
        fake.asked["source"] = source
        return FakeEvaluation(1.5, 4.48, 2.0, 1000)

    for stand_in in (train_run, load_run, sample, search, fill, evaluate):
        monkeypatch.setattr(run, stand_in.__name__, stand_in)
    monkeypatch.setattr(run, "find_run", lambda folder: Path(folder or fake.folder))
    return fake
