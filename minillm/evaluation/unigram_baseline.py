"""Scores of a model that ignores its input: a baseline for masked language models."""

import numpy as np

from minillm.data.loader import Tokens
from minillm.evaluation.evaluator import Measurement
from minillm.objectives.base import IGNORE_INDEX

BLOCK = 1 << 22
"""Tokens per block while counting."""


def count_tokens(tokens: Tokens, vocab_size: int) -> np.ndarray:
    """(V,) number of occurrences of each id."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens.num_tokens, BLOCK):
        block = tokens.slice(start, min(start + BLOCK, tokens.num_tokens))
        counts += np.bincount(block, minlength=vocab_size)
    return counts


def unigram_figures(measured: Measurement) -> dict[str, float]:
    """Scores of predictions from token frequency only, on the first label set.

    "unigram_loss", in nats per target, is the loss of the unigram model of the training text, whose counts are
    increased by one. "most_frequent_accuracy" is the accuracy of always predicting its most frequent token.
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
