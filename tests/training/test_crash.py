"""kill -9 at any instant costs the steps since the last checkpoint, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("crash_worker.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children; Windows has no fork")


def survive(root: Path, kills: int, seed: int, timeout: float, *more: str) -> None:
    command = [sys.executable, str(WORKER), str(root), str(kills), str(seed), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["killed"] == kills and found["finished"] >= 1
    assert found["differing"] == [], f"seed {seed}"


def test_ten_kills_at_random_times_give_the_same_bits_as_an_uninterrupted_run(tmp_path: Path):
    survive(tmp_path, kills=10, seed=time.time_ns() % 2**32, timeout=150)


@pytest.mark.slow
def test_an_adapter_survives_kills_too(tmp_path: Path):
    survive(tmp_path, 10, time.time_ns() % 2**32, 150, "lora")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_kills_at_random_times_give_the_same_bits_as_an_uninterrupted_run(tmp_path: Path):
    survive(tmp_path, kills=100, seed=time.time_ns() % 2**32, timeout=1700)
