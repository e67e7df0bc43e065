"""Scores of a text-to-text model on each of its tasks."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

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
from minillm.training.precision import for_decoding

BATCH, MAX_EXAMPLES = 64, 500
"""Examples per batch, and maximum examples of each task."""


@dataclass(frozen=True)
class TaskScore:
    """Scores of one task, all between 0 and 1 except `examples`."""

    examples: int
    exact_match: float
    """Share of greedy answers that equal the target."""
    rouge_l: float
    """Mean ROUGE-L of the greedy answers."""
    beam_rouge_l: float
    """Mean ROUGE-L of the answers of beam search with width 4 and length penalty 0.6, as Raffel et al. 2020 (section
    3.1.2) decode long answers."""
    first_words_rouge_l: float
    """Mean ROUGE-L of a baseline: the first words of the input, as many as the average target has."""
    token_accuracy: float
    """Share of target tokens that are the most likely ones, given the earlier target tokens."""


def task_figures(measured: Measurement) -> dict[str, Any]:
    """The scores of each task on its first examples, under "tasks"."""
    objective, decoder, figures = measured.objective, for_decoding(measured.model, measured.compute), {}
    for task in measured.tokens.tasks:
        examples = TaskRows(measured.tokens, task, limit=MAX_EXAMPLES)
        rows = [examples.row(i) for i in range(len(examples))]
        pairs, whole = list(map(objective.split, rows)), list(map(objective.halves, rows))
        figures[task or "(no prefix)"] = asdict(_score(measured, decoder, pairs, whole))
    return {"tasks": figures}


def _score(measured: Measurement, decoder: Any, pairs: Sequence[Pair], whole: Sequence[Pair]) -> TaskScore:
    """The scores on `pairs`, truncated to the model's length; `whole` has the full texts."""
    tokenizer = measured.tokenizer
    inputs = [tokenizer.decode(pair.source) for pair in whole]
    targets = [tokenizer.decode(pair.target) for pair in whole]
    sources, longest = [pair.source.tolist() for pair in pairs], max(len(pair.target) for pair in pairs)
    greedy, beam = SampleConfig(temperature=0.0, max_new_tokens=longest), BeamConfig(max_new_tokens=longest)
    greedy_answers = _answers(sources, lambda part: complete(decoder, tokenizer, part, greedy))
    beam_answers = _answers(sources, lambda part: search(decoder, tokenizer, part, beam))
    length = round(fmean(len(text.split()) for text in targets))
    first_words = [" ".join(text.removeprefix(f"{task_of(text)}:").split()[:length]) for text in inputs]
    return TaskScore(
        examples=len(pairs),
        exact_match=fmean(a == b for a, b in zip(targets, greedy_answers, strict=True)),
        rouge_l=fmean(map(rouge_l, targets, greedy_answers)),
        beam_rouge_l=fmean(map(rouge_l, targets, beam_answers)),
        first_words_rouge_l=fmean(map(rouge_l, targets, first_words)),
        token_accuracy=_token_accuracy(measured, pairs),
    )


@torch.inference_mode()
def _token_accuracy(measured: Measurement, pairs: Sequence[Pair]) -> float:
    model, compute, pad_id, correct, total = measured.model, measured.compute, measured.tokenizer.pad_id, 0, 0
    with evaluating(model), compute.autocast():
        for first in range(0, len(pairs), BATCH):
            batch = encoder_decoder_batch(pairs[first : first + BATCH], pad_id).to(compute.device)
            predicted = model(**batch.inputs).logits["lm"].argmax(-1)  # (B, T)
            correct += int((predicted == batch.labels["lm"]).sum())  # labels of padding equal no token
            total += batch.counts["lm"]
    return correct / total


def _answers(sources: Sequence[list[int]], write: Callable[[list[list[int]]], list[Completion]]) -> list[str]:
    """The answers that `write` generates, in batches of sources of similar lengths."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    answers = [""] * len(sources)
    for first in range(0, len(order), BATCH):
        part = order[first : first + BATCH]
        for i, completion in zip(part, write([sources[i] for i in part]), strict=True):
            answers[i] = completion.text
    return answers
