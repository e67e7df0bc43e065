"""`minillm fill`."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path


def fill(run: Path, text: str, /, *, top_k: int = 5, json: bool = False) -> None:
    """Let a model trained on masked tokens fill the gaps in a text, each with its probabilities.

    Parameters
    ----------
    run
        Run folder of a BERT.
    text
        The text, with [MASK] at each gap.
    top_k
        Candidates shown for each gap.
    json
        Print one JSON object instead of lines.
    """
    from minillm.run import fill as fill_gaps
    from minillm.run import load_run

    loaded = load_run(run)
    print(loaded.describe(), file=sys.stderr)
    found = fill_gaps(loaded, text, top_k=top_k)
    if json:
        gaps = [[candidate._asdict() for candidate in gap] for gap in found.candidates]
        print(jsonlib.dumps({"run": str(loaded.folder), "text": text, "filled": found.text, "gaps": gaps}))
        return
    print(found.text)
    for number, gap in enumerate(found.candidates, 1):
        print(f"gap {number} of {len(found.candidates)}")
        for candidate in gap:
            print(f"  {candidate.probability:.4f} {candidate.text!r}")
