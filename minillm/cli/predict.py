"""`minillm predict`."""

import json as jsonlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from minillm.cli.eval import INPUT_FIELDS
from minillm.cli.flags import Quantize, overrides, with_flags
from minillm.cli.output import open_run
from minillm.generation.printable import printable

INPUTS = ("text", "pair", "question", "words", "prompt", "chosen", "rejected", "image", "numbers")
"""Keys of a result that repeat its input."""


@with_flags("data", prefix=False, only=INPUT_FIELDS)
def predict(
    run: Path,
    /,
    *texts: str,
    data: Annotated[str | None, Parameter(metavar="SOURCE")] = None,
    quantize: Quantize = None,
    json: bool = False,
    **given: str,
) -> None:
    """Predict with a fine-tuned model: labels with probabilities, tags, answers, scores or numbers.

    Args:
        run: Run folder.
        texts: Texts (two for each prediction if the model reads pairs, or a question and its context), image files, or
            rows of numbers, such as "3.5, 2".
        data: Predict for each example of this file or other source instead; labels in it are not read.
        json: Print one JSON object for each input.
    """
    fields = {key.removeprefix("data."): str(value) for key, value in overrides(given).items()}
    if fields and data is None:
        raise ValueError(f"--{next(iter(fields)).replace('_', '-')} names a field of --data; give --data too")
    from minillm.run import predict as predict_inputs

    for result in predict_inputs(open_run(run, quantize=quantize), texts, source=data, fields=fields):
        print(jsonlib.dumps(result) if json else printable(shown_result(result)))


def shown_result(result: Mapping[str, Any]) -> str:
    """The input on one line, and what was predicted for it on the next ones."""
    given = [_short(value) for key, value in result.items() if key in INPUTS]
    found = [f"  {key}: {_value(value)}" for key, value in result.items() if key not in INPUTS]
    return "\n".join([" | ".join(given), *found])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "".join(f"\n    {_value(one)}" for one in value) or "none"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else " ".join(map(str, value))).split())
    return text if len(text) <= 100 else f"{text[:99]}…"
