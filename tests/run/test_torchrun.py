"""`torchrun -m minillm train` on two processes is `minillm train` on one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from minillm import RunConfig, override, train
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics

# without biases: the gradient of a key's bias is rounding noise, which Adam blows up
SAME: dict[str, object] = {"model.dropout": 0.0, "model.bias": False, "train.steps": 5, "train.micro_batch": 1}

# the command, and then how many threads of the process group are left
RANK = """
import glob, sys
from minillm.cli import main
code = main()
names = [open(path).read().strip() for path in glob.glob("/proc/self/task/*/comm")]
print(sum("gloo" in name for name in names))
sys.exit(code)
"""


def test_two_processes_leave_the_run_folder_that_one_leaves(config: RunConfig, config_file: Path, tmp_path: Path):
    flags = [part for key, value in SAME.items() for part in (f"--{key}", str(value).lower())]
    script = tmp_path / "rank.py"
    script.write_text(RANK, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(script), "train", str(config_file), "--out", str(tmp_path / "two"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    left = "".join(done.stdout.split())  # two processes write at once, in any order
    assert left == "00", "a thread of the group that outlives it may abort the process at its end"
    assert "2 processes" in done.stderr and done.stderr.count("run folder:") == 1, "the first rank alone speaks"
    one, two = train(override(config, SAME), tmp_path / "one"), tmp_path / "two"
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert json.loads((two / "run.json").read_text(encoding="utf-8"))["processes"] == 2
    for a, b in zip(read_metrics(two / "metrics.jsonl"), read_metrics(one / "metrics.jsonl"), strict=True):
        assert list(a) == list(b)
        assert all(a[key] == pytest.approx(b[key], rel=1e-6) for key in a if key != "seconds")
    assert [c.step for c in checkpoints(two)] == [c.step for c in checkpoints(one)]
    found, expected = (load_file(checkpoints(run)[-1].path / "model.safetensors") for run in (two, one))
    apart = sum((found[name] - p).double().square().sum().item() for name, p in expected.items()) ** 0.5
    assert apart <= 1e-6 * sum(p.double().square().sum().item() for p in expected.values()) ** 0.5
