"""`minillm merge`."""

from pathlib import Path


def merge(run: Path, out: Path, /) -> None:
    """Make a plain run from a run with an adapter, by adding the changes to the weights in fp32.

    Args:
        run: Run folder, trained with --adapter.name lora.
        out: Run folder to create.
    """
    from minillm.run import merge_run

    print(f"written to {merge_run(run, out)}; it no longer needs {run} or its base")
