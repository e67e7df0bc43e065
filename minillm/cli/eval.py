"""`minillm eval`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.report import show


def eval(
    run: Path | None = None, /, *, data: Annotated[str | None, Parameter(metavar="SOURCE")] = None, json: bool = False
) -> None:
    """Measure a trained model: loss in nats a token, then perplexity and bits per byte, or the share of right answers.

    Of a text-to-text model also, for each task: exact match and ROUGE-L of what it writes, beside the ROUGE-L of
    repeating the first words of the source, and the share of tokens that it has right.

    Parameters
    ----------
    run
        Run folder; the latest under runs/ if left out.
    data
        Text to measure on; the run's own validation text if left out.
    json
        Print one JSON object instead of lines.
    """
    from minillm.run import evaluate, load_run, score_tasks

    loaded = load_run(run)
    print(loaded.describe(), file=sys.stderr)
    found = evaluate(loaded, data)
    perplexity = {} if found.bits_per_byte is None else {"perplexity": found.perplexity}
    guess = found.guess and {"unigram_loss": found.guess.loss, "most_frequent_accuracy": found.guess.accuracy}
    tasks = {}
    if loaded.config.objective.name == "seq2seq":
        tasks = {name or "no prefix": asdict(score) for name, score in score_tasks(loaded, data).items()}
    figures = {"loss": found.loss} | perplexity | found.figures() | (guess or {})
    show(figures | {"tokens": found.targets} | tasks, json=json)
