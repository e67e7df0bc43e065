"""Ctrl-C and SIGTERM end every command in every phase with their exit code; training saves everything first."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minillm import RunConfig, load_config, override, train
from minillm.cli import main
from minillm.evaluation import evaluator
from minillm.generation import text as generation_text
from minillm.run import scoring, session
from minillm.tokenizers.byte import ByteTokenizer
from minillm.training.checkpoint import checkpoints

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORDS = {signal.SIGINT: "minillm: interrupted", signal.SIGTERM: "minillm: terminated"}
PHASES: dict[str, tuple[object, str, list[str]]] = {
    "tokenizing": (ByteTokenizer, "encode", ["train"]),
    "the last evaluation in training": (evaluator, "evaluate", ["train"]),
    "plotting": (session, "plot_curve", ["train"]),
    "the evaluation after training": (session, "score", ["train"]),
    "sampling": (generation_text, "stream", ["sample"]),
    "evaluating": (scoring, "score", ["eval"]),
}


@pytest.mark.parametrize("number", CODES, ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("phase", PHASES)
def test_in_every_phase_it_ends_with_the_signals_code(
    config_file: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    number: signal.Signals,
):
    owner, name, (command,) = PHASES[phase]
    original = getattr(owner, name)

    def signalled(*args: object, **kwargs: object) -> object:
        signal.raise_signal(number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalled)
    monkeypatch.setenv("MINILLM_DEBUG", "")
    run, cache = tmp_path / "run", tmp_path / "cache"
    train_flags = [str(config_file), "--out", str(run), "--data.cache", str(cache), "--eval.every", "0"]
    before = signal.getsignal(signal.SIGTERM)
    assert main([command, *(train_flags if command == "train" else [str(finished)])]) == CODES[number]
    said = capsys.readouterr().err
    if phase == "the last evaluation in training":
        assert "stopped at step 6, all saved; continue with" in said
    else:
        assert said.splitlines()[-1] == WORDS[number]
    assert "Traceback" not in said and signal.getsignal(signal.SIGTERM) is before
    assert run.exists() == (command == "train" and phase != "tokenizing"), "nothing is left before a start"


IMPORTING = """
import os, sys
from minillm.cli import main
class Finder:
    def find_spec(name, *_):
        if name == "torch.nn":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder)
sys.exit(main(["train", "gpt-nano", "--data", "missing.txt"]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to a process")
@pytest.mark.parametrize("number", CODES, ids=["Ctrl-C", "SIGTERM"])
def test_while_torch_is_imported_it_ends_with_the_signals_code(tmp_path: Path, number: signal.Signals):
    code = IMPORTING.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (CODES[number], WORDS[number])


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to a process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_training_saves_tells_how_to_continue_and_exits_with_the_signals_code(
    config: RunConfig, config_file: Path, tmp_path: Path, number: signal.Signals
):
    steady: dict[str, object] = {"schedule.name": "constant", "eval.every": 5, "save.every": 0}
    flags = [part for key, value in steady.items() for part in (f"--{key}", str(value))]
    run = tmp_path / "a run"
    command = [sys.executable, "-m", "minillm", "train", str(config_file), "--out", str(run), "--train.steps", "99999"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "validation loss" in line:
                break
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == CODES[number], rest
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    told = re.search(r"stopped at step (\d+), all saved; continue with: minillm train --resume --out '(.*)'\n", rest)
    assert told is not None and told[2] == str(run) and "Traceback" not in rest
    step = int(told[1])
    assert checkpoints(run)[-1].step == step
    train(override(load_config(run / "config.toml"), {"train.steps": step + 3}), run, resume=True)
    whole = train(override(config, {**steady, "train.steps": step + 3}), tmp_path / "whole")
    for name in ("model.safetensors", "optimizer.safetensors"):
        parts = [checkpoints(folder)[-1].path / name for folder in (run, whole)]
        assert parts[0].read_bytes() == parts[1].read_bytes()


@pytest.mark.parametrize("number", CODES, ids=["Ctrl-C", "SIGTERM"])
def test_while_torch_is_imported_it_ends_at_once(tmp_path: Path, number: signal.Signals):
    # torch's C++ code aborts on an exception, so none may be raised; this one writes "raised" instead
    stand_in = (
        f"import signal\ntry:\n    signal.raise_signal({int(number)})\nexcept BaseException:\n    print('raised')\n"
    )
    (tmp_path / "torch.py").write_text(stand_in, encoding="utf-8")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from minillm.cli import main; sys.exit(main(['eval']))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (CODES[number], "", WORDS[number] + "\n")
