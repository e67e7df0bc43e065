import os
import platform
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from minillm.training.memory import kept_memory
from minillm.training.step import StepFunction

STEPS = """
import os, resource, torch
from minillm.training.memory import kept_memory

BLOCK = 20_000_000 * 4

def faults(times=5, block=BLOCK):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(block // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

SMALL = BLOCK // 20  # 4 MB, which malloc keeps by itself
with kept_memory(torch.device("cpu")):
    pass
faults(10, SMALL)
print(faults(20, SMALL) < 10 * SMALL / os.sysconf("SC_PAGE_SIZE"))
outside, before = faults(), resident()
with kept_memory(torch.device("cpu")):
    faults(30)  # until blocks have found their places
    print(faults() < outside / 4, resident() > before + BLOCK / 2)
print(resident() < before + BLOCK / 4)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_step_and_released_afterwards():
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, env=plain)
    assert done.stdout.split() == ["True"] * 4


def test_other_devices_and_c_libraries_are_unaffected(monkeypatch):
    def never(name):
        raise AssertionError(name)

    monkeypatch.setattr("ctypes.CDLL", never)
    with kept_memory(torch.device("cuda")):
        pass
    with monkeypatch.context() as patch:
        patch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
        with kept_memory(torch.device("cpu")):
            pass
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with kept_memory(torch.device("cpu")):
        pass


def test_training_keeps_freed_memory(make_trainer, tmp_path, monkeypatch):
    kept: list[str] = []
    update = StepFunction.update
    monkeypatch.setattr(StepFunction, "update", lambda *args, **named: kept.append("step") or update(*args, **named))

    @contextmanager
    def noted(device):
        kept.append(f"{device} from here")
        yield
        kept.append("to here")

    monkeypatch.setattr("minillm.training.trainer.kept_memory", noted)
    make_trainer(tmp_path, train={"steps": 1}).fit()
    assert kept == ["cpu from here", "step", "to here"]
