"""Trains in forked children that are killed at random instants: python crash_worker.py FOLDER KILLS SEED [lora].

torch is imported once and never computes in this process, so that a fork costs milliseconds and is safe.
Prints one JSON object: how many were killed, how many runs went to their end, and what differs from a run that
nobody disturbed (nothing).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from conftest import tiny_lora, tiny_trainer

from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics

SETTINGS: dict[str, Any] = {
    "optim": {"name": "muon"},
    "train": {"steps": 40},
    "eval": {"every": 8},
    "save": {"every": 3, "keep": 2},
}


def train(folder: Path) -> None:
    """Go on from the last checkpoint, or start, and train to the end."""
    own = {"model": tiny_lora(dropout=0.1), "optim": {"name": "adamw"}} if "lora" in sys.argv else {}
    trainer = tiny_trainer(folder, **SETTINGS | own)
    if found := checkpoints(folder):
        trainer.restore(found[-1])
    trainer.fit()


def fork(folder: Path, kill_after: float | None) -> bool:
    """Train in a child, killed after so many seconds if it still lives then; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None and signal.sigtimedwait([signal.SIGCHLD], kill_after) is None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    signal.sigtimedwait([signal.SIGCHLD], 0)  # the child's end, if it has not been told yet
    if status not in (0, signal.SIGKILL):
        sys.exit(f"a child failed with status {status}; see above")
    return status == 0


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be equal: the bytes of weights and optimizer, metrics and counters but for the time."""
    last = checkpoints(folder)[-1]
    last.verify()
    files = {name: (last.path / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}
    metrics = [{k: v for k, v in x.items() if k != "seconds"} for x in read_metrics(folder / "metrics.jsonl")]
    counters = {k: v for k, v in vars(last.state.train).items() if k != "seconds"}
    steps = [checkpoint.step for checkpoint in checkpoints(folder)]
    leftovers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("step-"))
    return {**files, "metrics": metrics, "counters": counters, "steps": steps, "leftovers": leftovers}


def main(root: Path, kills: int, seed: int) -> dict[str, Any]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    dice = random.Random(seed)
    began = time.perf_counter()
    fork(root / "whole", None)
    seconds = time.perf_counter() - began
    expected = outcome(root / "whole")
    killed = finished = 0
    differing: set[str] = set()
    folder = root / "killed"
    while killed < kills or finished == 0:
        # the instants of some ten kills spread over a run, its start and its end included
        if not fork(folder, dice.uniform(0, seconds / 3) if killed < kills else None):
            killed += 1
            for checkpoint in checkpoints(folder) if folder.exists() else ():
                checkpoint.verify()
            continue
        finished += 1
        found = outcome(folder)
        differing |= {key for key in expected if found[key] != expected[key]}
        shutil.rmtree(folder)
    return {"killed": killed, "finished": finished, "differing": sorted(differing)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
