"""Scores of a run on tasks: those that it was trained on, and those of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence

from minillm.data.mixture import TaskRows, TaskTokens
from minillm.distributed.runtime import Runtime
from minillm.evaluation import text_to_text
from minillm.evaluation.text_to_text import TaskExample, TaskScore
from minillm.exchange.architectures import family_of
from minillm.objectives.seq2seq import Seq2Seq
from minillm.run.build import as_writer, build_objective, prepare_corpus, read_source
from minillm.run.loaded import LoadedRun


def score_tasks(loaded: LoadedRun, source: str | None = None, *, max_examples: int = 500) -> dict[str, TaskScore]:
    """Scores on the first `max_examples` examples of each task, from `source` or else from the validation split.

    Raises:
        ValueError: the run was not trained on text-to-text tasks.
    """
    config = loaded.config
    objective = build_objective(config, loaded.tokenizer)
    if not isinstance(objective, Seq2Seq):
        raise ValueError(f"{loaded.folder} was trained with objective {config.objective.name}: it has no tasks")
    if source is None:
        tokens = prepare_corpus(config, loaded.tokenizer, Runtime(device=loaded.compute.device)).validation
    else:
        tokens = read_source(config, source, loaded.tokenizer)
    assert isinstance(tokens, TaskTokens), "prepared as such"
    rows = {task: TaskRows(tokens, task, limit=max_examples) for task in tokens.tasks}
    examples = {
        task: [TaskExample(objective.split(row), objective.halves(row)) for row in map(of.row, range(len(of)))]
        for task, of in rows.items()
    }
    return text_to_text.score_tasks(loaded.model, loaded.tokenizer, examples, loaded.compute)


def score_harness(loaded: LoadedRun, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores on tasks of lm-evaluation-harness, as of `run_harness`; ValueError if the model is not a decoder."""
    from minillm.evaluation.harness import run_harness  # its package is an extra

    if family_of(loaded.config.model).writes != "continuation":
        family = loaded.config.model.family
        raise ValueError(f"{loaded.folder} is a {family} model; the harness's tasks are for a gpt, a decoder")
    prefix = as_writer(loaded.model, loaded.config.objective) is not loaded.model
    return run_harness(loaded.model, loaded.tokenizer, tasks, prefix=prefix)
