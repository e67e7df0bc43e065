"""`minillm report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(*runs: Path, out: Annotated[Path | None, Parameter(metavar="FILE")] = None) -> None:
    """Write an HTML page about one or more runs: curves, samples over time, parameters, time, memory and config.

    Args:
        runs: Run folders; several runs are compared side by side. Default: the latest under runs/.
        out: File to write. Default: report.html in the folder of the first run.
    """
    if out is not None and out.suffix.lower() != ".html":
        raise ValueError(f"--out {out} must end in .html")
    from minillm.run.run_page import write_report

    print(f"written: {write_report(runs or [None], out)}")
