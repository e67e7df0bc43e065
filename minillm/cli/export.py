"""`minillm export`."""

from pathlib import Path

from minillm.cli.output import open_run


def export(run: Path, out: Path, /) -> None:
    """Export a run: to a folder for transformers, or, if OUT ends in .gguf, to a file for llama.cpp.

    Args:
        run: Run folder.
        out: Folder or .gguf file to write; it must not exist.
    """
    from minillm.run import export_model

    print(f"written to {export_model(open_run(run, device='cpu'), out)}")
