"""`minillm eval`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.output import show


def eval(
    run: Path | None = None,
    /,
    *,
    data: Annotated[str | None, Parameter(metavar="SOURCE")] = None,
    harness: Annotated[str | None, Parameter(metavar="TASKS")] = None,
    json: bool = False,
) -> None:
    """Measure a trained model: loss in nats a token, then perplexity and bits per byte, or the share of right answers.

    Of a text-to-text model also, for each task: exact match and ROUGE-L of what it writes, ROUGE-L of what beam search
    finds, beside that of repeating the first words of the source, and the share of tokens that it has right; of each
    task's first 500 examples.

    Parameters
    ----------
    run
        Run folder; the latest under runs/ if left out.
    data
        Text to measure on; the run's own validation text if left out.
    harness
        Score tasks of lm-evaluation-harness instead: names, YAML files or folders of them, with commas between.
    json
        Print one JSON object instead of lines.
    """
    if harness is not None:
        if data is not None:
            raise ValueError("--data has no effect: the tasks of --harness bring their own text; leave one of them out")
        score_harness(run, harness, json=json)
        return
    from minillm.run import evaluate, load_run, score_tasks

    loaded = load_run(run)
    print(loaded.describe(), file=sys.stderr)
    found = evaluate(loaded, data)
    perplexity = {} if found.bits_per_byte is None else {"perplexity": found.perplexity}
    guess = found.guess and {"unigram_loss": found.guess.loss, "most_frequent_accuracy": found.guess.accuracy}
    tasks = {}
    if loaded.config.objective.name == "seq2seq":
        tasks = {name or "(no prefix)": asdict(score) for name, score in score_tasks(loaded, data).items()}
    figures = {"loss": found.loss} | perplexity | found.figures() | (guess or {})
    show(figures | {"tokens": found.targets} | ({"tasks": tasks} if tasks else {}), json=json)


def score_harness(run: Path | None, tasks: str, *, json: bool) -> None:
    """Print a run's figures on tasks of lm-evaluation-harness, named with commas between them."""
    from minillm.run import load_run, score_harness

    loaded = load_run(run)
    print(loaded.describe(), file=sys.stderr)
    show(score_harness(loaded, [task.strip() for task in tasks.split(",") if task.strip()]), json=json)
