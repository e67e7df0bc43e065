"""`minillm quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from minillm.cli.output import show


def quantize(
    run: Path,
    out: Path,
    /,
    *,
    bits: Literal[8, 4] = 8,
    group: int = 32,
    method: Literal["rtn", "gptq"] | None = None,
    data: str | None = None,
    json: bool = False,
) -> None:
    """Make a run with weights of 8 or 4 bits, which takes less memory and generates faster; print what it loses.

    Args:
        run: Run folder.
        out: Run folder to create.
        bits: Bits of each weight. With 4, those of the vocabulary head have 8.
        group: Inputs that share a scale with 4 bits: 32, 64, 128 or 256.
        method: rtn rounds to the nearest value; gptq compensates the errors on a text. Default: gptq for 4 bits.
        data: Text for gptq and for the loss. Default: the text that the run was trained on.
        json: Print one JSON object instead of lines.
    """
    from minillm.run import quantize_run

    made = quantize_run(run, out, bits=bits, group=group, method=method, data=data)
    figures = {"run": str(made.folder), "method": made.method, "left_alone": ", ".join(made.left_alone) or "nothing"}
    show(figures | {"before": made.before, "after": made.after}, json=json)
