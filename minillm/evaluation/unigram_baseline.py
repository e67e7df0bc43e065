"""Scores of a model that ignores its input, as a baseline for masked language models."""

from __future__ import annotations

import numpy as np

from minillm.data.loader import Tokens
from minillm.evaluation.evaluator import Measurement
from minillm.objectives.base import IGNORE_INDEX

BLOCK = 1 << 22
"""Tokens per block while counting."""


def count_tokens(tokens: Tokens, vocab_size: int) -> np.ndarray:
    """Number of occurrences of each id: (V,)."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens.num_tokens, BLOCK):
        block = tokens.slice(start, min(start + BLOCK, tokens.num_tokens))
        counts += np.bincount(block, minlength=vocab_size)
    return counts


def unigram_figures(measured: Measurement) -> dict[str, float]:
    """Scores of predicting by token frequency only, on the first label set.

    "unigram_loss", in nats per target, is that of the unigram model: the token counts of the training text, plus one
    each. "most_frequent_accuracy" is that of always predicting the most frequent token of the training text.
    """
    possible = measured.tokenizer.num_bytes > 0
    weights = np.where(possible, count_tokens(measured.train, len(possible)) + 1, 0)
    targets, name = np.zeros(len(weights), np.int64), next(iter(measured.objective.targets))
    for batch in measured.batches():
        labels = batch.labels[name].numpy()
        targets += np.bincount(labels[labels != IGNORE_INDEX], minlength=len(weights))
    seen = targets > 0
    loss = -(targets[seen] * np.log(weights[seen] / weights.sum())).sum() / targets.sum()
    return {"unigram_loss": float(loss), "most_frequent_accuracy": float(targets[weights.argmax()] / targets.sum())}
