"""Ctrl-C and SIGTERM stop a real `minillm train` with everything saved."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minillm import RunConfig, load_config, override, train
from minillm.training.checkpoint import checkpoints


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to a process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_it_saves_tells_how_to_go_on_and_exits_with_0(
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
        assert process.wait(timeout=60) == 0, rest
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    told = re.search(r"stopped at step (\d+), all saved; go on with: minillm train --resume --out '(.*)'\n", rest)
    assert told is not None and told[2] == str(run) and "Traceback" not in rest
    step = int(told[1])
    assert checkpoints(run)[-1].step == step
    train(override(load_config(run / "config.toml"), {"train.steps": step + 3}), run, resume=True)
    whole = train(override(config, {**steady, "train.steps": step + 3}), tmp_path / "whole")
    for name in ("model.safetensors", "optimizer.safetensors"):
        parts = [checkpoints(folder)[-1].path / name for folder in (run, whole)]
        assert parts[0].read_bytes() == parts[1].read_bytes()
