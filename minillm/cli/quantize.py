"""`minillm quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from minillm.cli.output import show


def quantize(
    run: Path,
    out: Path,
    /,
    *,
    bits: Literal[8, 4] = 8,
    group: int | None = None,
    method: Literal["rtn", "gptq"] | None = None,
    data: Annotated[str | None, Parameter(metavar="SOURCE")] = None,
    json: bool = False,
) -> None:
    """Make a run with 8-bit or 4-bit weights, which is smaller on disk and generates faster. Prints size, loss and
    speed before and after.

    Args:
        run: Run folder.
        out: Run folder to create.
        bits: Bits per weight. With 4, the vocabulary head still has 8.
        group: Number of inputs that share a scale: 32, 64, 128 or 256. Default: 32.
        method: rtn rounds to the nearest value; gptq also compensates the rounding errors on a text. Default: rtn
            with 8 bits, gptq with 4.
        data: Text for gptq and for the loss. Default: the text that the run was trained on.
        json: Print one JSON object instead of lines.
    """
    from minillm.run import quantize_run

    made = quantize_run(run, out, bits=bits, group=group, method=method, data=data)
    figures = {"run": str(made.folder), "method": made.method, "left_alone": ", ".join(made.left_alone) or "nothing"}
    show(figures | {"before": made.before, "after": made.after}, json=json)
