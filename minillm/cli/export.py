"""`minillm export`."""

from __future__ import annotations

from pathlib import Path

from minillm.cli.output import open_run


def export(run: Path, out: Path, /) -> None:
    """Write a run for other libraries: a folder that transformers loads, or, where OUT ends in .gguf, a file for
    llama.cpp.

    Args:
        run: Run folder.
        out: Folder or .gguf file to write; it must not exist.
    """
    from minillm.run import export_model

    print(f"written to {export_model(open_run(run, device='cpu'), out)}")
