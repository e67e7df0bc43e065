"""Scores of a model that ignores its input, as a baseline for masked language models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from minillm.data.loader import TokenStream
from minillm.evaluation.evaluator import Measurement
from minillm.objectives.base import IGNORE_INDEX, Batch

BLOCK = 1 << 22
"""Tokens per block while counting."""


class UnigramBaseline(NamedTuple):
    """Scores of predicting by token frequency only."""

    loss: float
    """Nats per target of the unigram model: the token counts of the training text, plus one each."""
    accuracy: float
    """Accuracy of always predicting the most frequent token of the training text."""


def count_tokens(tokens: TokenStream, vocab_size: int) -> np.ndarray:
    """Number of occurrences of each id: (V,)."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens.num_tokens, BLOCK):
        block = tokens.slice(start, min(start + BLOCK, tokens.num_tokens))
        counts += np.bincount(block, minlength=vocab_size)
    return counts


def unigram_baseline(counts: np.ndarray, possible: np.ndarray, batches: Iterable[Batch], name: str) -> UnigramBaseline:
    """Score the baseline on the targets of label set `name`, of which `batches` hold at least one.

    `counts` (V,) are those of the training text; `possible` (V,) bool says which ids can be targets.
    """
    weights = np.where(possible, counts + 1, 0)
    targets = np.zeros(len(weights), np.int64)
    for batch in batches:
        labels = batch.labels[name].numpy()
        targets += np.bincount(labels[labels != IGNORE_INDEX], minlength=len(weights))
    seen = targets > 0
    loss = -(targets[seen] * np.log(weights[seen] / weights.sum())).sum() / targets.sum()
    return UnigramBaseline(float(loss), float(targets[weights.argmax()] / targets.sum()))


def unigram_figures(measured: Measurement) -> dict[str, float]:
    """Both baselines of the first label set, as figures."""
    tokenizer = measured.tokenizer
    counts = count_tokens(measured.train, tokenizer.vocab_size)
    name = next(iter(measured.objective.targets))
    found = unigram_baseline(counts, tokenizer.num_bytes > 0, measured.batches(), name)
    return {"unigram_loss": found.loss, "most_frequent_accuracy": found.accuracy}
