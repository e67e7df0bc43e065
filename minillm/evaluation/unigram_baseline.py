"""What a model that ignores its input would score: the figures that a masked-language model has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from minillm.data.loader import TokenStream
from minillm.objectives.base import IGNORE_INDEX, Batch

BLOCK = 1 << 22
"""Tokens counted at a time."""


class UnigramBaseline(NamedTuple):
    """Scores of guessing by frequency alone."""

    loss: float
    """Nats per target of the unigram model: the frequencies of the training text, one added to each."""
    accuracy: float
    """Share of right answers of always saying the training text's most frequent token."""


def count_tokens(tokens: TokenStream, vocab_size: int) -> np.ndarray:
    """(V,) how often each id occurs."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens.num_tokens, BLOCK):
        block = tokens.slice(start, min(start + BLOCK, tokens.num_tokens))
        counts += np.bincount(block, minlength=vocab_size)
    return counts


def unigram_baseline(counts: np.ndarray, possible: np.ndarray, batches: Iterable[Batch], name: str) -> UnigramBaseline:
    """Score the guess on the targets of label set `name`.

    Args:
        counts: (V,) of the training text.
        possible: (V,) bool, the ids that can be targets at all.
        batches: at least one target among them.
    """
    weights = np.where(possible, counts + 1, 0)
    found = np.zeros(len(weights), np.int64)
    for batch in batches:
        labels = batch.labels[name].numpy()
        found += np.bincount(labels[labels != IGNORE_INDEX], minlength=len(weights))
    seen = found > 0
    loss = -(found[seen] * np.log(weights[seen] / weights.sum())).sum() / found.sum()
    return UnigramBaseline(float(loss), float(found[weights.argmax()] / found.sum()))
