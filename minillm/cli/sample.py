"""`minillm sample`."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path

from minillm.cli.flags import overrides, with_flags
from minillm.config import override
from minillm.generation.config import BeamConfig


@with_flags("sample", prefix=False)
def sample(
    run: Path | None = None,
    /,
    *,
    num_beams: int | None = None,
    num_best: int = 1,
    length_penalty: float | None = None,
    json: bool = False,
    **given: str,
) -> None:
    """Let a trained model go on with a prompt, or answer it. What is not given, the run's [sample] section decides.

    Parameters
    ----------
    run
        Run folder; the latest under runs/ if left out.
    num_beams
        Search the likeliest text with so many beams, instead of drawing one.
    num_best
        Texts that beam search returns, the likeliest first.
    length_penalty
        Power of the length by which beam search divides a text's log-probability; 0.6 if left out.
    json
        Print one JSON object instead of the text.
    """
    from minillm.run import load_run, search
    from minillm.run import sample as complete

    loaded = load_run(run)
    loaded.require_writer()
    settings = override(loaded.config, overrides(given)).sample
    print(loaded.describe(), file=sys.stderr)

    if num_beams is not None:
        refuse(given, "beam search draws nothing", allowed=("sample__prompt", "sample__max_new_tokens", "sample__stop"))
        penalty = {} if length_penalty is None else {"length_penalty": length_penalty}
        beams = BeamConfig(
            num_beams=num_beams,
            num_best=num_best,
            max_new_tokens=settings.max_new_tokens,
            stop=settings.stop,
            **penalty,
        )
        completions = search(loaded, settings.prompt, beams)
    elif num_best != 1 or length_penalty is not None:
        raise ValueError("--num-best and --length-penalty belong to beam search; give --num-beams too")
    elif settings.num_samples == 1 and not json:
        print(settings.prompt if loaded.continues else "", end="", flush=True)
        complete(loaded, settings, on_text=lambda _, piece: print(piece, end="", flush=True))
        print()
        return
    else:
        completions = complete(loaded, settings)
    if json:
        texts = [
            {"text": c.text, "finish_reason": c.finish_reason} | ({} if c.score is None else {"score": c.score})
            for c in completions
        ]
        print(jsonlib.dumps({"run": str(loaded.folder), "prompt": settings.prompt, "completions": texts}))
        return
    for number, completion in enumerate(completions, 1):
        heading = f"--- {number} of {len(completions)}\n" if len(completions) > 1 else ""
        print(f"{heading}{settings.prompt if loaded.continues else ''}{completion.text}")


def refuse(given: dict[str, str], why: str, *, allowed: tuple[str, ...]) -> None:
    """ValueError for a flag on the command line that would be ignored."""
    for name, value in given.items():
        if value is not None and name not in allowed:
            raise ValueError(f"--{name.partition('__')[2].replace('_', '-')} has no effect: {why}; leave it out")
