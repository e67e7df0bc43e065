"""`minillm attention`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.output import open_run
from minillm.generation.printable import printable

FORMS = (".html", ".png", ".json")


def attention(
    run: Path,
    text: str,
    /,
    *,
    target: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    out: Annotated[Path | None, Parameter(metavar="FILE")] = None,
) -> None:
    """Show which tokens each head of a model attends to, and for a GPT also what its heads do.

    Args:
        run: Run folder.
        text: Text that the model reads; for a BERT it may contain [MASK].
        target: Text that the decoder of a T5 reads. Default: its own answer.
        layer: Show only this layer, counted from 0.
        head: Show only this head of each layer, counted from 0.
        out: File to write: .html (an interactive page), .png (heat maps) or .json (all weights).
            Default: print where each token attends most.
    """
    if out is not None and out.suffix.lower() not in FORMS:
        raise ValueError(f"--out {out} must end in {', '.join(FORMS)}")
    from minillm.run.looking import attention as look
    from minillm.run.looking import write_attention

    loaded = open_run(run)
    found = look(loaded, text, target=target, layer=layer, head=head)
    if out is not None:
        write_attention(found, out)
        print(f"written: {out}")
        return
    print(printable(found.describe()))
