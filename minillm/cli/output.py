"""Shared by commands: open a run, and print a result as text or JSON."""

from __future__ import annotations

import json as jsonlib
import math
import os
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.generation.printable import printable
from minillm.inference.idle import is_idle

if TYPE_CHECKING:
    from minillm.run import LoadedRun

SPIN_COUNT = "10000"
"""Iterations of the waiting loop of GNU's OpenMP library."""


def open_run(run: Path | None, **options: Any) -> LoadedRun:
    """Load a run and print its description on stderr."""
    from minillm.run import load_run

    loaded = load_run(run, **options)
    print(loaded.describe(), file=sys.stderr)
    return loaded


def spin_while_idle() -> None:
    """On an idle machine, let OpenMP's threads wait actively for about 40 microseconds before they sleep.

    A decoding step has hundreds of products of 20 to 100 microseconds each, and waking a thread for each one takes as
    long. While other processes need the cores, spinning would slow all of them down. torch's library reads the variable
    when it is loaded, so this comes before the first import of torch; a user's setting is kept.
    """
    if is_idle() and os.environ.get("OMP_WAIT_POLICY", "passive") == "passive":
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def show(result: Mapping[str, object], *, json: bool) -> None:
    """Print the result as one JSON object, or as lines with a key and a value."""
    if json:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in result.items()}
        print(jsonlib.dumps(finite))  # JSON has no infinity
        return
    print(printable("\n".join(lines(result))))


def lines(result: Mapping[str, object], indent: str = "") -> list[str]:
    text = []
    for key, value in result.items():
        label = indent + key.replace("_", " ")
        if isinstance(value, Mapping):
            text += [label, *lines(value, indent + "  ")]
        else:
            text.append(f"{label:<26} {_shown(value)}")
    return text


def _shown(value: object) -> str:
    if isinstance(value, str) and "\n" in value:
        return "\n" + textwrap.indent(value.strip("\n"), "  ")
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
