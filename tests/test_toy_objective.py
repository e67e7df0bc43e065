"""A new objective is one file and one row: nothing else knows of it, and the command line trains it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from minillm import load_run
from minillm.cli import main
from minillm.registry import OBJECTIVES, ObjectiveSpec
from minillm.training.metrics import read_metrics

TOY = '''"""Predict every token from those up to the one `distance` places before it."""

from __future__ import annotations

from dataclasses import dataclass

from minillm.data.loader import Windows
from minillm.objectives.base import Batch, CrossEntropyObjective, TokenLossConfig
from minillm.objectives.layout import IGNORE_INDEX, pad
from minillm.settings import setting


@dataclass(frozen=True, kw_only=True)
class ToyConfig(TokenLossConfig):
    """Look ahead."""

    name: str = "toy"
    distance: int = setting(2, at_least=1)
    """How far ahead the target lies, in tokens."""


@dataclass(frozen=True)
class Toy(CrossEntropyObjective):
    distance: int = 2

    def examples(self, tokens, data, length, *, training):
        return Windows(tokens, length + self.distance - 1)

    def collate(self, examples, rng):
        rows, valid = pad(examples, self.pad_id)
        labels = rows.masked_fill(~valid, IGNORE_INDEX)[:, self.distance :]
        return Batch({"tokens": rows[:, : -self.distance]}, {"lm": labels}, {"lm": int((labels != IGNORE_INDEX).sum())})


def build(config, setup):
    return Toy(setup.tokenizer.pad_id, config.label_smoothing, config.z_loss, config.distance)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The objective's one file, importable, and its one row in the table."""
    path = tmp_path / "toy.py"
    path.write_text(TOY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("toy", "minillm.cli.train"):  # which reads the table when it is imported
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(OBJECTIVES, "toy", ObjectiveSpec("toy:ToyConfig", {"gpt": "toy:build"}))
    return path


def curve(run: Path) -> list[tuple[int, float | None, float | None]]:
    return [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(run / "metrics.jsonl")]


def test_one_file_of_forty_lines_and_one_row_are_an_objective(
    toy: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert len(toy.read_text(encoding="utf-8").splitlines()) <= 40
    start = ["train", str(config_file), "--objective.name", "toy", "--objective.distance", "3", "--save.keep", "9"]
    assert main([*start, "--train.steps", "6", "--out", str(tmp_path / "whole")]) == 0
    assert 'name = "toy"\n' in (tmp_path / "whole" / "config.toml").read_text(encoding="utf-8")
    run = load_run(tmp_path / "whole")
    assert vars(run.objective)["distance"] == 3, "the objective's own setting has come through"

    capsys.readouterr()
    assert main(["eval", str(tmp_path / "whole"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = min(val_loss for _, _, val_loss in curve(tmp_path / "whole") if val_loss is not None)
    assert found["loss"] == pytest.approx(best, rel=1e-6) and 0 < found["token_accuracy"] < 1

    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for later in (tmp_path / "stopped").glob("step-00000[46]"):
        shutil.rmtree(later)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(tmp_path / "stopped")]) == 0
    assert "at step 2 of 6" in capsys.readouterr().err
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")

    assert main([*start, "--objective.mask-rate", "0.2", "--out", str(tmp_path / "none")]) != 0
    assert "objective.mask_rate has no effect with objective.name toy" in capsys.readouterr().err


def test_its_own_setting_changes_what_is_learned(toy: Path, config_file: Path, tmp_path: Path):
    for distance in ("1", "2"):
        start = ["train", str(config_file), "--objective.name", "toy", "--objective.distance", distance]
        assert main([*start, "--train.steps", "2", "--out", str(tmp_path / distance)]) == 0
    assert curve(tmp_path / "1") != curve(tmp_path / "2")
    assert main(["train", str(config_file), "--train.steps", "2", "--out", str(tmp_path / "clm")]) == 0
    assert curve(tmp_path / "1") == curve(tmp_path / "clm"), "one token ahead is a causal language model"
