"""Runs the works one after the other and collects their rows."""

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from minillm.benchmark import generation_sides, reading_sides, training_sides
from minillm.benchmark.machine import Machine, measure_machine
from minillm.benchmark.result_table import BenchmarkRow, rows
from minillm.benchmark.shapes import SHAPES
from minillm.benchmark.turns import Side, agreement, take_turns
from minillm.models.profile import profile
from minillm.run import export_model, find_run, load_run

WORKS = ("train", "decode", "prefill", "batch", "data")
PEERS = ("transformers", "ctranslate2", "xllamacpp")
"""Packages that minillm is compared with, if they are installed."""
PREPARING = 0.3
"""Share of a work's time for starting its sides."""


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
    """Measure `works` beside `peers` (None: those installed) in at most about `minutes`.

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
    machine, found, agreed = measure_machine(), [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if set(works) - {"train"}:
            run = generation_sides.make_run(folder / "run") if run is None else find_run(Path(run))
        for work in works:
            say(f"{work}: preparing")
            plans = _plan(work, machine, peers, run, folder)
            for title, sides, limits, tolerance in plans:
                say(f"{title}: {', '.join(f'{side.name} {side.dtype}'.strip() for side in sides)}")
                seconds = minutes * 60 / len(works) / len(plans) * (1 - PREPARING)
                results = take_turns(sides, seconds=seconds)
                found += rows(title, results, limits)
                agreed[title] = agreement(results, tolerance=tolerance)
    return Result(machine, found, agreed)


Plan = tuple[str, list[Side], list[float | None], float]
"""Title, sides, their limits, and the tolerance of their outputs."""


def _plan(work: str, machine: Machine, peers: Sequence[str], run: Path | str | None, folder: Path) -> list[Plan]:
    """The comparisons of a work."""
    if work == "train":
        plans = []
        for name, shape in SHAPES.items():
            sides = training_sides.sides(name, machine, tuple(peers))
            tolerance = 1e-3 if shape().comparable else 0.05  # without our weights, only the size agrees
            plans.append(
                (shape().title, sides, [training_sides.limit(name, machine, side) for side in sides], tolerance)
            )
        return plans
    assert run is not None, "`run_benchmark` makes one"
    run = Path(run)
    if work == "data":
        exported = folder / "exported"
        if not exported.exists():
            export_model(load_run(run, device="cpu"), exported, say=lambda message: None)
        sides, batches = reading_sides.sides(run, exported), reading_sides.loader_sides(run)
        return [("tokenize, one thread", sides, [None, None], 0), ("batches of 32 x 256", batches, [None], 0)]
    parameters = profile(load_run(run, device="cpu").config.model).total
    sides = generation_sides.sides(work, machine, peers, run, folder)
    job = generation_sides.make_job(work, run)
    what = {"decode": f"{job.num_new} tokens, one row", "prefill": f"{len(job.prompts[0])} tokens"}
    title = f"{work} {parameters / 1e6:.1f} M, {what.get(work, f'{len(job.prompts)} uneven prompts')}"
    return [(title, sides, [generation_sides.limit(work, machine, side, parameters) for side in sides], 0)]


def _installed(peers: Sequence[str] | None) -> tuple[str, ...]:
    """The peers to measure; ValueError for one that is unknown or missing."""
    present = tuple(name for name in PEERS if importlib.util.find_spec(name) is not None)
    for name in peers or ():
        if name not in PEERS:
            raise ValueError(f"{name!r} is not a peer; choose from: {', '.join(PEERS)}")
        if name not in present:
            raise ValueError(f"{name} is not installed; install it with: pip install 'minillm[bench]'")
    return present if peers is None else tuple(peers)
