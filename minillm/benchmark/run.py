"""Runs the works one after the other and collects their rows."""

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from minillm.benchmark import data, decoding, training
from minillm.benchmark.machine import Machine, measure_machine
from minillm.benchmark.report import Row, rows
from minillm.benchmark.turns import Side, agreement, take_turns
from minillm.models.profile import profile
from minillm.run import export_model, find_run, load_run

WORKS = ("train", "decode", "prefill", "batch", "data")
PEERS = ("transformers", "ctranslate2", "xllamacpp")
"""Packages beside which this program is measured, if they are installed."""
PREPARING = 0.3
"""Share of a work's time for starting its sides."""


class Result(NamedTuple):
    """Everything that was measured."""

    machine: Machine
    rows: list[Row]
    agreement: dict[str, dict[str, str]]
    """Work -> side -> whether its output is ours."""


def bench(
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
        run: the run to generate with; None: one of 10.7 M parameters, made here.
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
            raise ValueError(f"{work!r} is not a work; there are: {', '.join(WORKS)}")
    machine, found, agreed = measure_machine(), [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if set(works) - {"train"}:
            run = decoding.make_run(folder / "run") if run is None else find_run(Path(run))
        for work in works:
            say(f"{work}: preparing")
            for title, sides, limits, tolerance in _plan(work, machine, peers, run, folder):
                say(f"{title}: {', '.join(f'{side.name} {side.dtype}'.strip() for side in sides)}")
                seconds = minutes * 60 / len(works) * (1 - PREPARING)
                results = take_turns(sides, seconds=seconds)
                found += rows(title, results, limits)
                agreed[title] = agreement(results, tolerance=tolerance)
    return Result(machine, found, agreed)


Plan = tuple[str, list[Side], list[float | None], float]
"""Title, sides, their limits, and the tolerance of their outputs."""


def _plan(work: str, machine: Machine, peers: Sequence[str], run: Path | str | None, folder: Path) -> list[Plan]:
    """The comparisons of a work."""
    if work == "train":
        sides = training.sides(machine, tuple(peers))
        return [(training.WORK, sides, [training.limit(machine, side) for side in sides], 1e-3)]
    assert run is not None, "`bench` makes one"
    run = Path(run)
    if work == "data":
        exported = folder / "exported"
        if not exported.exists():
            export_model(load_run(run, device="cpu"), exported, say=lambda message: None)
        sides, batches = data.sides(run, exported), data.loader_sides(run)
        return [("tokenize, one thread", sides, [None, None], 0), ("batches of 32 x 256", batches, [None], 0)]
    parameters = profile(load_run(run, device="cpu").config.model).total
    sides = decoding.sides(work, machine, peers, run, folder)
    job = decoding.make_job(work, run)
    what = {"decode": f"{job.num_new} tokens, one row", "prefill": f"{len(job.prompts[0])} tokens"}
    title = f"{work} {parameters / 1e6:.1f} M, {what.get(work, f'{len(job.prompts)} uneven prompts')}"
    return [(title, sides, [decoding.limit(work, machine, side, parameters) for side in sides], 0)]


def _installed(peers: Sequence[str] | None) -> tuple[str, ...]:
    """The peers to measure; ValueError for one that is unknown or missing."""
    present = tuple(name for name in PEERS if importlib.util.find_spec(name) is not None)
    for name in peers or ():
        if name not in PEERS:
            raise ValueError(f"{name!r} is not a peer; there are: {', '.join(PEERS)}")
        if name not in present:
            raise ValueError(f"{name} is not installed; install it with: pip install 'minillm[bench]'")
    return present if peers is None else tuple(peers)
