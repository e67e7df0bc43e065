import multiprocessing
import time
from pathlib import Path

import pytest

from minillm.benchmark import turns
from minillm.benchmark.turns import Measured, Side, agreement, take_turns

SIDES = """
from minillm.benchmark.turns import Ready

def fast(tokens):
    return Ready(lambda: tokens, lambda: [1, 2, 3])

def other():
    return Ready(lambda: 10, lambda: [1, 2, 4])

def slow():
    import time
    return Ready(lambda: time.sleep(30), lambda: [])

def counting(is_warm):
    turns = iter(range(10**9))
    return Ready(lambda: next(turns) and 10, lambda: [], is_warm)

def broken():
    raise ImportError("no such library\\nand more")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toy_sides.py").write_text(SIDES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)  # the processes inherit it
    return "toy_sides"


def test_sides_take_turns_and_one_that_fails_does_not_stop_the_others(module: str):
    names = [("fast", {"tokens": 100}), ("other", {}), ("broken", {})]
    results = take_turns([Side(name, "fp32", f"{module}:{name}", options) for name, options in names], until=0)
    fast, other, broken = results
    assert len(fast.speeds) == len(other.speeds) >= 2 and min(fast.speeds) > 0 and fast.peak_bytes > 1e7
    assert broken.failure == "ImportError: no such library" and not broken.speeds
    assert agreement(results, tolerance=0) == {"other fp32": "equal for the first 2 of 3"}


def test_no_side_starts_and_no_turn_begins_after_the_deadline(module: str):
    sides = [Side("fast", "fp32", f"{module}:fast", {"tokens": 100})]
    began = time.monotonic()
    (late,) = take_turns(sides, until=began + 60, deadline=began)
    assert late.failure == "no time was left" and not late.output and time.monotonic() - began < 1
    (cut,) = take_turns([Side("slow", "fp32", f"{module}:slow")], until=0, deadline=time.monotonic() + 1)
    assert cut.failure == "no time was left" and not cut.speeds and time.monotonic() - began < 10


def test_no_answer_is_awaited_after_the_deadline():
    here, there = multiprocessing.Pipe()
    waiting, late = Measured(Side("a", "", "")), Measured(Side("b", "", ""))
    began = time.monotonic()
    turns._receive(here, waiting, lambda *given: None, began + 0.2)
    assert waiting.failure == "no time was left" and 0.2 <= time.monotonic() - began < 5
    turns._take_turn(here, late, began, counts=True)
    assert not there.poll(), "nothing was asked of the side"


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_side_whose_output_is_as_much_work_as_a_turn_needs_no_other_to_warm_up(module: str, is_warm: bool):
    """The first turn of this side returns no tokens, so its speed is 0."""
    (only,) = take_turns([Side("counting", "fp32", f"{module}:counting", {"is_warm": is_warm})], until=0)
    assert len(only.speeds) == 2 and (only.speeds[0] == 0) is is_warm
