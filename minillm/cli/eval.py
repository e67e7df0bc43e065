"""`minillm eval`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.flags import Quantize, overrides, with_flags
from minillm.cli.output import open_run, show

INPUT_FIELDS = (
    *("data.field", "data.pair_field", "data.words_field", "data.question_field", "data.context_field"),
    *("data.prompt_field", "data.chosen_field", "data.rejected_field"),
)
"""Keys that name the fields of inputs."""
TARGET_FIELDS = (
    *("data.label_field", "data.tags_field", "data.answers_field", "data.margin_field"),
    *("data.input_field", "data.target_field"),
)
"""Keys that name other fields: those of targets, and of text-to-text examples."""


@with_flags("data", prefix=False, only=(*INPUT_FIELDS, *TARGET_FIELDS))
def eval(
    run: Path | None = None,
    /,
    *,
    data: Annotated[str | None, Parameter(metavar="SOURCE")] = None,
    objective: Annotated[str | None, Parameter(metavar="NAME")] = None,
    harness: Annotated[str | None, Parameter(metavar="TASKS")] = None,
    quantize: Quantize = None,
    json: bool = False,
    **given: str,
) -> None:
    """Evaluate a trained model: loss in nats per token, and perplexity and bits per byte, or accuracies.

    For a text-to-text model also, for the first 500 examples of each task: exact match and ROUGE-L of greedy answers,
    ROUGE-L of beam search and of the first words of the input, and token accuracy.

    Args:
        run: Run folder. Default: the latest under runs/.
        data: Data to evaluate on. Default: the run's validation data.
        objective: Evaluate --data with this objective instead of the run's, such as clm to measure how well a
            chat model still predicts plain text.
        harness: Score tasks of lm-evaluation-harness instead: names, YAML files or folders, separated by commas.
        json: Print one JSON object instead of lines.
    """
    fields = {key.removeprefix("data."): str(value) for key, value in overrides(given).items()}
    if harness is not None and (data is not None or objective is not None or fields):
        raise ValueError("--data and its fields have no effect: the tasks of --harness have their own text")
    if fields and data is None:
        raise ValueError(f"--{next(iter(fields)).replace('_', '-')} names a field of --data; give --data too")
    from minillm.run import evaluate, score_harness

    loaded = open_run(run, quantize=quantize)
    if harness is not None:
        show(score_harness(loaded, [task.strip() for task in harness.split(",") if task.strip()]), json=json)
        return
    found = evaluate(loaded, data, objective=objective, fields=fields, thorough=True)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    perplexity = {} if found.bits_per_byte is None else {"perplexity": found.perplexity}
    figures = {"loss": found.loss} | perplexity | found.figures() | found.baselines
    show(figures | {"targets": found.targets} | found.more, json=json)
