"""`minillm export`."""

from __future__ import annotations

import sys
from pathlib import Path


def export(run: Path, out: Path, /) -> None:
    """Write a run for other libraries: a folder that transformers loads, or, where OUT ends in .gguf, a file for
    llama.cpp.

    Parameters
    ----------
    run
        Run folder.
    out
        Folder or .gguf file to write; it must not exist.
    """
    from minillm.run import export_model, load_run

    loaded = load_run(run, device="cpu")
    print(loaded.describe(), file=sys.stderr)
    print(f"written to {export_model(loaded, out)}")
