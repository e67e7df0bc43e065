"""`minillm bench`."""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.output import spin_while_idle

CHART = "bench.png"


def bench(
    *works: str,
    run: Path | None = None,
    peers: Annotated[str | None, Parameter(metavar="NAMES")] = None,
    minutes: float = 10.0,
    json: bool = False,
    chart: Path = Path(CHART),
) -> None:
    """Measure minillm next to its peers on this machine: train, decode, prefill, batch and data.

    It first measures the limits of the machine: matrix products and memory reads. Then each library runs in its own
    process, and they take turns. Their outputs are compared before they are timed.

    Args:
        works: What to measure: train, decode (one text), prefill (reading a prompt), batch (many uneven
            prompts), data (reading a text for training). Default: all.
        run: Run to generate with. Default: a new model of 13.8 M parameters.
        peers: Any of transformers, ctranslate2, xllamacpp, separated by commas, or none. Default: the installed ones.
        minutes: Time limit for all measurements together.
        json: Print a JSON list of rows instead of a table.
        chart: File for the bar chart.
    """
    if not minutes > 0:  # not a number either
        raise ValueError(f"--minutes is {minutes}; it must be above 0")
    spin_while_idle()  # the processes of all sides inherit it
    from minillm.benchmark import result_table
    from minillm.benchmark.works import WORKS, run_benchmark

    names = None if peers is None else [name for name in peers.split(",") if name not in ("", "none")]
    result = run_benchmark(
        works or WORKS, run=run, peers=names, minutes=minutes, say=lambda line: print(line, file=sys.stderr)
    )
    machine = result_table.machine_line(result.machine)
    result_table.chart(result.rows, chart, machine)
    if json:
        print(jsonlib.dumps([row._asdict() for row in result.rows]))
        return
    print(machine, result_table.table(result.rows), sep="\n\n")
    for work, sides in result.agreement.items():
        told = "; ".join(f"{side}: {how}" for side, how in sides.items())
        print(f"\noutputs compared with ours, {work}: {told or 'nothing to compare'}")
    print(f"\nbar chart: {chart}")
