"""Scores of a text-to-text model on each of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple

import torch

from minillm.data.datasets.tasks import TaskRows
from minillm.data.sources.records import task_of
from minillm.evaluation.evaluator import Measurement
from minillm.evaluation.rouge import rouge_l
from minillm.generation.adapters import evaluating
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import Completion
from minillm.generation.text import complete, search
from minillm.objectives.layout import Pair, encoder_decoder_batch
from minillm.tokenizers.base import Tokenizer
from minillm.training.precision import Compute, for_decoding

BATCH, MAX_EXAMPLES = 64, 500
"""Examples per batch, and of each task at most."""


class TaskExample(NamedTuple):
    """One example of a task."""

    cut: Pair
    """What the encoder reads and the decoder is trained to write, cut to the model's length."""
    whole: Pair
    """The same uncut, for the texts of the input and the target."""


@dataclass(frozen=True)
class TaskScore:
    """Scores of one task, all between 0 and 1 except `examples`."""

    examples: int
    exact_match: float
    """Share of greedy answers that are exactly the target."""
    rouge_l: float
    """Mean ROUGE-L of the greedy answers."""
    beam_rouge_l: float
    """Mean ROUGE-L of the answers of beam search with width 4 and length penalty 0.6, as Raffel et al. 2020 (section
    3.1.2) decode long answers."""
    first_words_rouge_l: float
    """Mean ROUGE-L of a baseline: the first words of the input, as many as a target has on average."""
    token_accuracy: float
    """Share of target tokens that are the most likely ones after the target tokens before them."""


def task_figures(measured: Measurement) -> dict[str, Any]:
    """The scores of each task on its first examples, under "tasks"."""
    objective, tokens = measured.objective, measured.tokens
    examples = {}
    for task in tokens.tasks:
        rows = TaskRows(tokens, task, limit=MAX_EXAMPLES)
        examples[task] = [
            TaskExample(objective.split(row), objective.halves(row)) for row in map(rows.row, range(len(rows)))
        ]
    scores = score_tasks(measured.model, measured.tokenizer, examples, measured.compute)
    return {"tasks": {task or "(no prefix)": asdict(score) for task, score in scores.items()}}


def score_tasks(
    model: Any, tokenizer: Tokenizer, examples: Mapping[str, Sequence[TaskExample]], compute: Compute
) -> dict[str, TaskScore]:
    """The scores of an encoder-decoder on the examples of each task, by the task's name; no task without examples."""
    decoder = for_decoding(model, compute)
    return {task: _score(model, decoder, tokenizer, rows, compute) for task, rows in examples.items()}


def _score(
    model: Any, decoder: Any, tokenizer: Tokenizer, examples: Sequence[TaskExample], compute: Compute
) -> TaskScore:
    inputs = [tokenizer.decode(example.whole.source) for example in examples]
    targets = [tokenizer.decode(example.whole.target) for example in examples]
    pairs = [example.cut for example in examples]
    sources, longest = [pair.source.tolist() for pair in pairs], max(len(pair.target) for pair in pairs)
    greedy, beam = SampleConfig(temperature=0.0, max_new_tokens=longest), BeamConfig(max_new_tokens=longest)
    greedy_answers = _answers(sources, lambda part: complete(decoder, tokenizer, part, greedy))
    beam_answers = _answers(sources, lambda part: search(decoder, tokenizer, part, beam))
    length = round(fmean(len(text.split()) for text in targets))
    first_words = [" ".join(text.removeprefix(f"{task_of(text)}:").split()[:length]) for text in inputs]
    return TaskScore(
        examples=len(examples),
        exact_match=fmean(a == b for a, b in zip(targets, greedy_answers, strict=True)),
        rouge_l=fmean(map(rouge_l, targets, greedy_answers)),
        beam_rouge_l=fmean(map(rouge_l, targets, beam_answers)),
        first_words_rouge_l=fmean(map(rouge_l, targets, first_words)),
        token_accuracy=_token_accuracy(model, pairs, tokenizer.pad_id, compute),
    )


@torch.inference_mode()
def _token_accuracy(model: Any, pairs: Sequence[Pair], pad_id: int, compute: Compute) -> float:
    correct, total = 0, 0
    with evaluating(model), compute.autocast():
        for first in range(0, len(pairs), BATCH):
            batch = encoder_decoder_batch(pairs[first : first + BATCH], pad_id).to(compute.device)
            predicted = model(**batch.inputs).logits["lm"].argmax(-1)  # (B, T)
            correct += int((predicted == batch.labels["lm"]).sum())  # labels of padding equal no token
            total += batch.counts["lm"]
    return correct / total


def _answers(sources: Sequence[list[int]], write: Callable[[list[list[int]]], list[Completion]]) -> list[str]:
    """The answer that `write` generates to each source, in batches of similar lengths."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    answers = [""] * len(sources)
    for first in range(0, len(order), BATCH):
        part = order[first : first + BATCH]
        for i, completion in zip(part, write([sources[i] for i in part]), strict=True):
            answers[i] = completion.text
    return answers
