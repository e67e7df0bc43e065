"""`minillm export`."""

from pathlib import Path

from minillm.cli.output import open_run


def export(run: Path, out: Path, /, *, adapter_only: bool = False) -> None:
    """Export a run: to a folder for transformers, or, if OUT ends in .gguf, to a file for llama.cpp.

    Args:
        run: Run folder.
        out: Folder or .gguf file to write; it must not exist.
        adapter_only: Write only the adapter of a run, in the format of PEFT, instead of the merged model.
    """
    from minillm.run import export_adapter, export_model

    if adapter_only:
        print(f"written to {export_adapter(run, out)}")
        return
    print(f"written to {export_model(open_run(run, device='cpu'), out)}")
