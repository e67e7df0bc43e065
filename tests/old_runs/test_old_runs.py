"""Runs and exported folders that commit 8601d3a wrote load, resume, write and evaluate to the figures it gave.

`record.py` made them. The command line alone is used here: names inside the package may change, these files may not.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.cli import main

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
TRAINED, EXPORTED = EXPECTED["trained"], EXPECTED["exported"]
CASES = [(kind, name) for kind, cases in EXPECTED.items() for name, case in cases.items() if "loss" in case]
TOLERANCE = 1e-4
"""Relative; fp32 sums in another order differ by less after these few steps."""


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run `minillm ARGUMENTS` on the CPU, with a cache of its own; exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    for probe in ("torch.cuda.is_available", "torch.backends.mps.is_available"):  # `eval` has no flag for the device
        monkeypatch.setattr(probe, lambda: False)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def printed(command: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    """The JSON object that a command prints."""

    def call(*arguments: object) -> Any:
        code, out, err = command(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def run_of(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Callable[[str, str], Path]:
    """A copy of a recorded run, or the run that `minillm import` makes of a recorded exported folder."""

    def copy(kind: str, name: str) -> Path:
        run = tmp_path / name
        if kind == "trained":
            return Path(shutil.copytree(HERE / kind / name, run))
        code, _, err = command("import", HERE / kind / name, run)
        assert code == 0, err
        compute_in_fp32(run / "config.toml")
        return run

    return copy


def compute_in_fp32(config: Path) -> None:
    """An imported run takes the precision that is fast on the machine, which the figures must not depend on."""
    text = config.read_text(encoding="utf-8")
    assert text.count('precision = "auto"') == 1
    config.write_text(text.replace('precision = "auto"', 'precision = "fp32"'), encoding="utf-8")


def losses(run: Path, after: int) -> tuple[list[float], float]:
    """Training losses after a step, and the last validation loss."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    training = [line["loss"] for line in lines if "loss" in line and line["step"] > after]
    return training, [line["val_loss"] for line in lines if "val_loss" in line][-1]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_an_old_run_evaluates_to_the_recorded_loss(printed, run_of, kind: str, name: str):
    case = EXPECTED[kind][name]
    found = printed("eval", run_of(kind, name), "--data", HERE / case["data"])
    for key in ("loss", "bits_per_byte"):
        assert found.get(key) == (pytest.approx(case[key], rel=TOLERANCE) if key in case else None)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_an_old_run_writes_the_recorded_text(printed, run_of, kind: str, name: str):
    run = run_of(kind, name)
    for written in EXPECTED[kind][name]["written"]:
        action, *arguments = shlex.split(written["command"])
        found = printed(action, run, *arguments)
        assert (found["filled"] if action == "fill" else found["completions"][0]["text"]) == written["text"]


@pytest.mark.parametrize("name", [name for name, case in TRAINED.items() if "resumed" in case])
def test_an_old_run_resumes_to_the_recorded_losses(command, run_of, name: str):
    case, run = TRAINED[name], run_of("trained", name)
    expected = case["resumed"]
    stopped = expected["steps"] - len(expected["loss"])
    flags = ("--data", HERE / case["data"], "--train.steps", expected["steps"])
    code, _, err = command("train", "--resume", "--out", run, *flags)
    assert code == 0, err
    training, validation = losses(run, after=stopped)
    assert training == pytest.approx(expected["loss"], rel=TOLERANCE)
    assert validation == pytest.approx(expected["val_loss"], rel=TOLERANCE)


def test_an_old_imported_encoder_without_a_vocabulary_head_is_not_evaluated_but_trained_further(
    command, run_of, tmp_path: Path
):
    case, run = TRAINED["encoder"], run_of("trained", "encoder")
    data, child = ("--data", HERE / case["data"]), tmp_path / "child"
    code, _, err = command("eval", run, *data)
    assert code == 2 and "vocabulary head" in err
    code, _, err = command("train", "--init-from", run, *case["child"]["flags"].split(), *data, "--out", child)
    assert code == 0, err
    training, validation = losses(child, after=0)
    assert training == pytest.approx(case["child"]["loss"], rel=TOLERANCE)
    assert validation == pytest.approx(case["child"]["val_loss"], rel=TOLERANCE)
