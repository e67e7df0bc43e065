"""The sides of a comparison. Each has its own process; they take turns, so a slow moment of the machine affects all."""

import contextlib
import importlib
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

WARM_UP, MIN_ROUNDS, MAX_ROUNDS = 1, 2, 10
REST = 0.1
"""Seconds between turns, so that the other processes' threads go to sleep."""
ANSWER_LIMIT, END_LIMIT = 180.0, 1.0
"""Seconds that a side may take to get ready (compilation included) or for a turn, and that all may take to exit."""
NO_TIME = "no time was left"


@dataclass(frozen=True)
class Side:
    """One program in one setting."""

    name: str
    """The program."""
    dtype: str
    """Of its weights or products, such as fp32 or int8."""
    build: str
    """`module:function(**options) -> Ready`."""
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    """What is special in this setting."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of its process."""


@dataclass(frozen=True)
class Ready:
    """A side that is ready to run."""

    turn: Callable[[], int]
    """Do the work once; returns the number of tokens."""
    output: Callable[[], list[float]]
    """What all sides should agree on, computed before the first turn."""
    is_warm: bool = False
    """Whether `output` does the same work as a turn, so that no warm-up turn is needed."""


@dataclass
class Measured:
    """What a side did."""

    side: Side
    speeds: list[float] = field(default_factory=list)
    """Tokens per second of each turn."""
    output: list[float] = field(default_factory=list)
    is_warm: bool = False
    """As in Ready."""
    peak_bytes: int = 0
    """Largest resident memory of its process."""
    failure: str = ""
    """Why it was not measured."""


def take_turns(sides: Sequence[Side], *, until: float, deadline: float = math.inf) -> list[Measured]:
    """Start all sides, and let them run one after the other, at least two turns each after the warm-up.

    A side that fails has `failure`; the others go on.

    Args:
        sides: each gets a process.
        until: value of time.monotonic() after which no further round of turns begins.
        deadline: value of time.monotonic() after which no side starts and no turn begins or goes on.
    """
    results, running = [Measured(side) for side in sides], []
    try:
        for result in results:
            if time.monotonic() < deadline:
                pipe, process = _start(result.side)
                running.append((result, pipe, process))
                _receive(pipe, result, _note_output, deadline)
        for number in range(WARM_UP + MAX_ROUNDS):
            if number >= WARM_UP + MIN_ROUNDS and time.monotonic() > until:
                break
            for result, pipe, _ in running:
                if number >= WARM_UP or not result.is_warm:
                    _take_turn(pipe, result, deadline, counts=number >= WARM_UP)
    finally:
        for _, pipe, _ in running:
            with contextlib.suppress(OSError):
                pipe.send(False)
        end = time.monotonic() + END_LIMIT
        for _, _, process in running:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
    for result in results:
        if not result.speeds:
            result.failure = result.failure or NO_TIME
        elif result.failure == NO_TIME:  # its last turn only
            result.failure = ""
    return results


def _start(side: Side) -> tuple[Any, Any]:
    """The pipe to the process of a side, and the process."""
    context = torch.multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, side), daemon=True)
    with _environment(side.environment):
        process.start()
    there.close()
    return here, process


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that a process inherits: OpenMP reads its own when torch is loaded, before any code could."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _note_output(result: Measured, message: tuple[list[float], bool]) -> None:
    result.output, result.is_warm = message


def _take_turn(pipe: Any, result: Measured, deadline: float, *, counts: bool) -> None:
    if result.failure or time.monotonic() >= deadline:
        return

    def note(result: Measured, message: tuple[float, int, int]) -> None:
        seconds, tokens, result.peak_bytes = message
        if counts:
            result.speeds.append(tokens / seconds)

    try:
        pipe.send(True)
    except OSError as error:
        result.failure = str(error)
        return
    _receive(pipe, result, note, deadline)
    time.sleep(REST)


def _receive(pipe: Any, result: Measured, note: Callable[[Measured, Any], object], deadline: float) -> None:
    """Hand the next message of a side to `note`; a message of text is a failure."""
    left = max(0.0, deadline - time.monotonic())
    late = NO_TIME if left < ANSWER_LIMIT else f"no answer within {ANSWER_LIMIT:.0f} s"
    try:
        message = pipe.recv() if pipe.poll(min(ANSWER_LIMIT, left)) else late
    except (EOFError, OSError):
        message = "its process ended"
    if isinstance(message, str):
        result.failure = message
    else:
        note(result, message)


def _serve(pipe: Any, side: Side) -> None:
    """The process of one side."""
    try:
        module, _, function = side.build.partition(":")
        ready: Ready = getattr(importlib.import_module(module), function)(**side.options)
        pipe.send(([float(number) for number in ready.output()], ready.is_warm))
        while pipe.recv():
            began = time.perf_counter()
            tokens = ready.turn()
            pipe.send((time.perf_counter() - began, tokens, peak_bytes()))
    except Exception as error:  # any failure of a peer is a row that says so, not the end of the benchmark
        traceback.print_exc()
        with contextlib.suppress(OSError):
            pipe.send(f"{type(error).__name__}: {error}".partition("\n")[0])


def peak_bytes() -> int:
    """Largest resident memory of this process so far; 0 where the system does not tell.

    `ru_maxrss` would not do: Linux hands it down from the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def agreement(results: Sequence[Measured], *, tolerance: float) -> dict[str, str]:
    """Side and dtype -> how its output compares with that of the first side: equal, or from where it differs."""
    told = {}
    first = results[0].output
    for result in results[1:]:
        if result.failure or not result.output or not first:
            continue
        length = min(len(first), len(result.output))
        close = np.isclose(result.output[:length], first[:length], rtol=tolerance, atol=tolerance)
        where = length if close.all() else int(close.argmin())
        name = f"{result.side.name} {result.side.dtype}"
        told[name] = "equal" if where == length else f"equal for the first {where} of {length}"
    return told
