"""How well a text-to-text model does each of its tasks, on examples that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from minillm.data.datasets.tasks import TaskRows, TaskTokens
from minillm.data.loader import eval_batches
from minillm.data.sources.records import task_of
from minillm.distributed.runtime import Runtime
from minillm.evaluation.rouge import rouge_l
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import Completion
from minillm.generation.text import complete, search
from minillm.objectives.seq2seq import Seq2Seq
from minillm.run.build import build_objective, prepare_corpus, read_source
from minillm.run.loaded import LoadedRun, bytes_of_ids
from minillm.training.evaluate import evaluate

BATCH = 64
"""Answers that are written side by side."""


@dataclass(frozen=True)
class TaskScore:
    """One task's figures, all from 0 to 1 but `examples`."""

    examples: int
    exact_match: float
    """Share of answers, written greedily, that are the target to the letter."""
    rouge_l: float
    """Mean ROUGE-L of these answers."""
    beam_rouge_l: float
    """The same for the answers that beam search finds, width 4 and length penalty 0.6, as Raffel et al. 2020
    (section 3.1.2) decode long answers."""
    first_words_rouge_l: float
    """The same for answers that only repeat the beginning of the input, as many words of it as targets have."""
    token_accuracy: float
    """Share of the targets' tokens that are the likeliest after those before them."""


def score_tasks(loaded: LoadedRun, source: str | None = None, *, max_examples: int = 500) -> dict[str, TaskScore]:
    """The score of each task on its first `max_examples` validation examples, or on those of `source`.

    Raises:
        ValueError: the run has not learned text to text.
    """
    config, runtime = loaded.config, Runtime(device=loaded.compute.device)
    objective = build_objective(config, loaded.tokenizer)
    if not isinstance(objective, Seq2Seq):
        raise ValueError(f"{loaded.folder} has learned {config.objective.name}, not seq2seq: it has no tasks")
    if source is None:
        tokens = prepare_corpus(config, loaded.tokenizer, runtime).validation
    else:
        tokens = read_source(config, source, loaded.tokenizer)
    assert isinstance(tokens, TaskTokens), "prepared as such"
    return {task: _score(loaded, objective, TaskRows(tokens, task, limit=max_examples)) for task in tokens.tasks}


def _score(loaded: LoadedRun, objective: Seq2Seq, rows: TaskRows) -> TaskScore:
    pairs = [objective.split(rows.row(i)) for i in range(len(rows))]
    whole = [objective.halves(rows.row(i)) for i in range(len(rows))]  # a target may be longer than what is learned
    sources, wanted = ([loaded.tokenizer.decode(pair[side]) for pair in whole] for side in (0, 1))
    read = [pair.source.tolist() for pair in pairs]
    longest = max(len(pair.target) for pair in pairs)
    greedy = SampleConfig(temperature=0.0, max_new_tokens=longest)
    beams = BeamConfig(max_new_tokens=longest)
    written = _answers(read, lambda part: complete(loaded.decoder, loaded.tokenizer, part, greedy))
    found = _answers(read, lambda part: search(loaded.decoder, loaded.tokenizer, part, beams))
    measured = evaluate(
        loaded.model,
        eval_batches(rows, objective.collate, batch=BATCH),
        objective,
        compute=loaded.compute,
        runtime=Runtime(device=loaded.compute.device),
        token_bytes=bytes_of_ids(loaded.tokenizer, loaded.compute),
    )
    length = round(fmean(len(text.split()) for text in wanted))
    copies = [" ".join(source.removeprefix(f"{task_of(source)}:").split()[:length]) for source in sources]
    return TaskScore(
        examples=len(pairs),
        exact_match=fmean(a == b for a, b in zip(wanted, written, strict=True)),
        rouge_l=fmean(map(rouge_l, wanted, written)),
        beam_rouge_l=fmean(map(rouge_l, wanted, found)),
        first_words_rouge_l=fmean(map(rouge_l, wanted, copies)),
        token_accuracy=measured.accuracies["lm"],
    )


def _answers(sources: Sequence[list[int]], write: Callable[[list[list[int]]], list[Completion]]) -> list[str]:
    """What `write` makes of each source, those of like length side by side."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    answers = [""] * len(sources)
    for first in range(0, len(order), BATCH):
        part = order[first : first + BATCH]
        for i, completion in zip(part, write([sources[i] for i in part]), strict=True):
            answers[i] = completion.text
    return answers
