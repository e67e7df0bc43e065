"""The sides of a comparison. Each has its own process; they take turns, so a slow moment of the machine affects all."""

import contextlib
import importlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

WARM_UP, MAX_ROUNDS = 1, 10
REST = 0.1
"""Seconds between turns, so that the other processes' threads go to sleep."""
START_LIMIT = 180.0
"""Seconds that a side may take to get ready, compilation included."""


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


@dataclass
class Measured:
    """What a side did."""

    side: Side
    speeds: list[float] = field(default_factory=list)
    """Tokens per second of each turn."""
    output: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    """Largest resident memory of its process."""
    failure: str = ""
    """Why it was not measured."""


def take_turns(sides: Sequence[Side], *, seconds: float) -> list[Measured]:
    """Run all sides for about `seconds`, at least two turns each after the warm-up, one after the other.

    A side that fails has `failure`; the others go on.
    """
    context = torch.multiprocessing.get_context("spawn")
    results, pipes, processes = [Measured(side) for side in sides], [], []
    try:
        for result in results:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, result.side), daemon=True)
            with _environment(result.side.environment):
                process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
            _receive(here, result, lambda result, message: result.output.extend(message), START_LIMIT)
        until = time.monotonic() + seconds
        for number in range(WARM_UP + MAX_ROUNDS):
            if number >= WARM_UP + 2 and time.monotonic() > until:
                break
            for pipe, result in zip(pipes, results, strict=True):
                _take_turn(pipe, result, counts=number >= WARM_UP)
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            with contextlib.suppress(OSError):
                pipe.send(False)
            process.join(5)
            process.kill()
    return results


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


def _take_turn(pipe: Any, result: Measured, *, counts: bool) -> None:
    if result.failure:
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
    _receive(pipe, result, note, START_LIMIT)
    time.sleep(REST)


def _receive(pipe: Any, result: Measured, note: Callable[[Measured, Any], object], limit: float) -> None:
    """Hand the next message of a side to `note`; a message of text is a failure."""
    try:
        message = pipe.recv() if pipe.poll(limit) else f"no answer within {limit:.0f} s"
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
        pipe.send([float(number) for number in ready.output()])
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
