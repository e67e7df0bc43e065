"""`minillm fill`."""

import json as jsonlib
from pathlib import Path

from minillm.cli.output import open_run
from minillm.generation.printable import printable


def fill(run: Path, text: str, /, *, top_k: int = 5, json: bool = False) -> None:
    """Fill in the masked words of a text with a BERT, and print the most likely candidates.

    Args:
        run: Run folder of a BERT.
        text: Text with [MASK] in place of each missing word.
        top_k: Number of candidates for each [MASK].
        json: Print one JSON object instead of lines.
    """
    from minillm.run import fill as fill_gaps

    loaded = open_run(run)
    filled = fill_gaps(loaded, text, top_k=top_k)
    if json:
        gaps = [[candidate._asdict() for candidate in gap] for gap in filled.candidates]
        print(jsonlib.dumps({"run": str(loaded.folder), "text": text, "filled": filled.text, "gaps": gaps}))
        return
    print(printable(filled.text))
    for number, gap in enumerate(filled.candidates, 1):
        print(f"gap {number} of {len(filled.candidates)}")
        for candidate in gap:
            print(f"  {candidate.probability:.4f} {candidate.text!r}")
