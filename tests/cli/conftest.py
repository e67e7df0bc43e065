"""Commands run in this process, on a stand-in for a trained run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from minillm import run
from minillm.cli import main
from minillm.config import RunConfig, load_config
from minillm.tokenizers.char import CharTokenizer
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
    score: float | None
    prompt_ids: tuple[int, ...]
    prompt_tokens_cut: int
    ids: tuple[int, ...] = (0, 1, 2)


@dataclass
class FakeRun:
    """What a command asked of `minillm.run`, and what it gets back."""

    folder: Path
    config: RunConfig
    asked: dict[str, Any]
    signal: int | None = None
    model: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(writes="continuation"))
    text: tuple[str, ...] = (" upon", " a time")
    tokenizer: CharTokenizer = field(default_factory=lambda: CharTokenizer.train(map(chr, range(128))))
    cut: int = 0

    def require_writer(self) -> None:
        self.asked["writer"] = True

    def describe(self) -> str:
        return "runs/fake: step 7"

    def next_command(self) -> str:
        return "minillm chat runs/fake"

    def describe_decoder(self, *, batch: bool = False) -> str:
        return f"decoding: fp32 weights{', many prompts' * batch}"


class FakeEvaluation(NamedTuple):
    loss: float
    perplexity: float
    bits_per_byte: float
    targets: int
    baselines: dict[str, float]
    notes: tuple[str, ...]
    more: dict[str, Any]

    def figures(self) -> dict[str, float]:
        return {"bits_per_byte": self.bits_per_byte}


@pytest.fixture
def fake_run(monkeypatch, tmp_path: Path) -> FakeRun:
    """`minillm.run` with nothing behind it: it records what it is asked and answers at once."""
    config = load_config()
    config = replace(config, sample=replace(config.sample, prompt="Once", top_k=5))
    fake = FakeRun(tmp_path / "runs" / "fake", config, {})

    def train_run(
        config: RunConfig, out: Path | None = None, *, resume: bool = False, init_from: Path | None = None
    ) -> Ended:
        fake.asked |= {"config": config, "out": out, "resume": resume}
        return Ended(TrainState(), "interrupted" if fake.signal else "finished", fake.signal, fake.folder)

    def load_run(folder: Path | None = None, **options: Any) -> FakeRun:
        fake.asked |= {"folder": folder} | ({"options": options} if options else {})
        return fake

    def sample(
        loaded: FakeRun, config: Any, on_text: Any = None, *, prompts: Any = ("",), draft: Any = None
    ) -> list[Completion]:
        fake.asked |= {"sample": config} | ({} if draft is None else {"draft": draft})
        if on_text is not None:
            for piece in fake.text:
                on_text(0, piece)
        ids = (0,) * (900 if fake.cut else 3)
        return [Completion("".join(fake.text), "length", None, ids, fake.cut)] * len(prompts) * config.num_samples

    def search(loaded: FakeRun, prompt: str, config: Any) -> list[Completion]:
        fake.asked["search"] = (prompt, config)
        ids = (0,) * (900 if fake.cut else 3)
        return [Completion(f" text {rank}", "eos", -float(rank), ids, fake.cut) for rank in range(config.num_best)]

    def fill(loaded: FakeRun, text: str, *, top_k: int = 5) -> None:
        raise ValueError("runs/fake fills no gaps")

    def evaluate(
        loaded: FakeRun, source: str | None = None, *, objective: str | None, fields: Any, thorough: bool
    ) -> FakeEvaluation:
        fake.asked |= {"source": source, "objective": objective, "fields": fields, "thorough": thorough}
        return FakeEvaluation(1.5, 4.48, 2.0, 1000, {}, ("a row was left out",), {})

    for stand_in in (train_run, load_run, sample, search, fill, evaluate):
        monkeypatch.setattr(run, stand_in.__name__, stand_in)
    monkeypatch.setattr(run, "find_run", lambda folder: Path(folder or fake.folder))
    return fake
