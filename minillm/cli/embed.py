"""`minillm embed`."""

import json as jsonlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from minillm.cli.flags import overrides, with_flags
from minillm.cli.output import open_run
from minillm.generation.printable import printable

SHOWN = 4
"""Numbers of a vector that are printed without --json."""


@with_flags("data", prefix=False, only=("data.field", "data.pair_field"))
def embed(
    run: Path,
    /,
    *texts: str,
    data: Annotated[str | None, Parameter(metavar="SOURCE")] = None,
    out: Path | None = None,
    similar: str | None = None,
    top_k: int = 10,
    prompt: str | None = None,
    json: bool = False,
    **given: str,
) -> None:
    """Turn texts into vectors, or rank them by their similarity to another text.

    Pooling, normalization and the maximum length come from the run's [embed] section.

    Args:
        run: Run folder.
        texts: Texts to turn into vectors.
        data: Source with more texts: the lines of text files, or the records of .jsonl, .csv and so on.
        out: Write all vectors to this .npy file, one row per text, instead of printing them.
        similar: Rank the texts by their similarity to this one, most similar first.
        top_k: Number of texts that --similar prints.
        prompt: Name of the prompt in embed.prompts to put before the texts and before that of --similar.
        json: Print one JSON object per text.
    """
    from minillm.data.sources import read_texts
    from minillm.run import embed as vectors_of
    from minillm.run.similar import rank, write_vectors

    fields = {key.removeprefix("data."): str(value) for key, value in overrides(given).items()}
    if fields and data is None:
        raise ValueError(f"--{next(iter(fields)).replace('_', '-')} names a field of --data; give --data too")
    if top_k < 1:
        raise ValueError(f"--top-k is {top_k}; it must be at least 1")
    read: list[Any] = [*texts, *(read_texts(data, **fields) if data is not None else ())]
    if not read:
        raise ValueError("there is no text to embed; give some as arguments, or a source with --data")
    loaded = open_run(run)
    vectors = vectors_of(loaded, read, prompt=prompt)
    if out is not None:
        write_vectors(out, vectors)
        print(f"{len(vectors)} vectors of {vectors.size(1)} numbers written to {out}", file=sys.stderr)
    if similar is not None:
        for text, score in rank(loaded, similar, read, vectors, prompt=prompt)[:top_k]:
            print(
                jsonlib.dumps({"text": text, "score": score}) if json else f"{score:.4f} {printable(on_one_line(text))}"
            )
    elif out is None:
        for text, vector in zip(read, vectors.tolist(), strict=True):
            start = " ".join(f"{number:.4f}" for number in vector[:SHOWN])
            line = f"{start} … ({len(vector)} numbers)  {on_one_line(text)}"
            print(jsonlib.dumps({"text": text, "vector": vector}) if json else printable(line))


def on_one_line(text: str | Sequence[str]) -> str:
    """A text or a pair of texts on one line."""
    return " ".join((text if isinstance(text, str) else " | ".join(text)).split())
