"""Runs the works one after the other and collects their rows."""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from minillm.benchmark import generation_sides, reading_sides, training_sides
from minillm.benchmark.machine import Machine, better, measure_machine
from minillm.benchmark.result_table import BenchmarkRow, rows
from minillm.benchmark.shapes import SHAPES
from minillm.benchmark.turns import Measured, Side, agreement, take_turns
from minillm.models.profile import profile
from minillm.run import find_run

WORKS = ("train", "decode", "prefill", "batch", "data")
PEERS = ("transformers", "ctranslate2", "xllamacpp")
"""Packages that minillm is compared with, if they are installed."""


class Result(NamedTuple):
    """Everything that was measured."""

    machine: Machine
    rows: list[BenchmarkRow]
    agreement: dict[str, dict[str, str]]
    """Work -> side -> whether its output is ours."""


def run_benchmark(
    works: Sequence[str] = WORKS,
    *,
    run: Path | str | None = None,
    peers: Sequence[str] | None = None,
    minutes: float = 10.0,
    say: Callable[[str], None] = print,
) -> Result:
    """Measure `works` beside `peers` (None: those installed) in at most `minutes`.

    Works share the remaining time equally, and so do the comparisons of a work. Each side has at least two turns. Once
    `minutes` have passed, no side starts and no turn begins or goes on; the rows of sides without a turn say so.

    Args:
        works: names from WORKS.
        run: the run to generate with; None: one of 13.8 M parameters, made here.
        peers: names from PEERS.
        minutes: time for all works together.
        say: receives one line about each work as it begins.

    Raises:
        ValueError: a work or a peer is unknown, or a given peer is not installed.
        FileNotFoundError: there is no such run.
    """
    peers = _installed(peers)
    for work in works:
        if work not in WORKS:
            raise ValueError(f"{work!r} cannot be measured; choose from: {', '.join(WORKS)}")
    began = time.monotonic()
    deadline = began + 60 * minutes
    machine, measured, agreed = measure_machine(), [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if set(works) - {"train"}:
            run = generation_sides.make_run(folder / "run") if run is None else find_run(Path(run))
        for i, work in enumerate(works):
            say(f"{work}: preparing")
            share = _share(deadline, len(works) - i)
            plans = _plan(work, machine, peers, run, folder)
            for j, plan in enumerate(plans):
                say(f"{plan.title}: {', '.join(f'{side.name} {side.dtype}'.strip() for side in plan.sides)}")
                results = take_turns(plan.sides, until=_share(share, len(plans) - j), deadline=deadline)
                measured.append((plan, results))
                agreed[plan.compared or plan.title] = agreement(results, tolerance=plan.tolerance)
    machine = better(machine, measure_machine())
    found = [row for plan, results in measured for row in plan.rows(machine, results)]
    say(f"measured in {(time.monotonic() - began) / 60:.1f} minutes")
    return Result(machine, found, agreed)


def _share(deadline: float, number: int) -> float:
    """When the first of `number` equal parts of the time until `deadline` ends."""
    now = time.monotonic()
    return now + max(0.0, deadline - now) / number


class Comparison(NamedTuple):
    """Sides that do the same work."""

    title: str
    sides: list[Side]
    limit: Callable[[Machine, Side], float | None] = lambda machine, side: None
    """Tokens per second that the machine could reach with a side's weights."""
    tolerance: float = 0.0
    """Allowed difference of the outputs."""
    compared: str = ""
    """Which outputs are compared, if not those that are timed."""

    def rows(self, machine: Machine, results: Sequence[Measured]) -> list[BenchmarkRow]:
        """The rows of the table."""
        return rows(self.title, results, [self.limit(machine, result.side) for result in results])


def _plan(work: str, machine: Machine, peers: Sequence[str], run: Path | str | None, folder: Path) -> list[Comparison]:
    """The comparisons of a work."""
    if work == "train":
        return [_training(name, machine, peers) for name in SHAPES]
    assert run is not None, "`run_benchmark` makes one"
    run = Path(run)
    if work == "data":
        generation_sides.write_exports(run, folder, [generation_sides.EXPORTED])
        sides = reading_sides.sides(run, folder / generation_sides.EXPORTED)
        batches = reading_sides.loader_sides(run)
        return [Comparison("tokenize, one thread", sides), Comparison("batches of 32 x 256", batches)]
    parameters = profile(generation_sides.model_config(run)).total
    plans = []
    for job in generation_sides.make_jobs(work, run, parameters):
        sides = generation_sides.sides(work, machine, peers, run, folder, job)
        limit = partial(generation_sides.limit, work, parameters)
        what = {"decode": f"{job.num_new} tokens, one row", "prefill": f"{len(job.prompts[0])} tokens"}
        title = f"{work} {parameters / 1e6:.1f} M, {what.get(work, f'{len(job.prompts)} uneven prompts')}"
        sampled = job.describe()
        title += f", {sampled}" if sampled else ""
        plans.append(Comparison(title, sides, limit, compared=f"{title} (their greedy tokens)" if sampled else ""))
    return plans


def _training(name: str, machine: Machine, peers: Sequence[str]) -> Comparison:
    """Training of one shape."""
    shape, sides = SHAPES[name](), training_sides.sides(name, machine, tuple(peers))
    tolerance = 1e-3 if shape.comparable else 0.05  # without our weights, only the size agrees
    return Comparison(shape.title, sides, partial(training_sides.limit, name), tolerance)


def _installed(peers: Sequence[str] | None) -> tuple[str, ...]:
    """The peers to measure; ValueError for one that is unknown or missing."""
    present = tuple(name for name in PEERS if importlib.util.find_spec(name) is not None)
    for name in peers or ():
        if name not in PEERS:
            raise ValueError(f"{name!r} is not a peer; choose from: {', '.join(PEERS)}")
        if name not in present:
            raise ValueError(f"{name} is not installed; install it with: pip install 'minillm[bench]'")
    return present if peers is None else tuple(peers)
