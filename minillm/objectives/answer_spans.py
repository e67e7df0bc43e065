"""Windows over the context of a question, and the best answer in them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minillm.data.datasets.questions import Question, QuestionIds
from minillm.data.sources.squad import normalized
from minillm.tokenizers.spans import without_blanks

ALWAYS = 1e6
"""Threshold with which every question gets an answer."""


class Window(NamedTuple):
    """A question with the tokens [start, stop) of its context."""

    row: QuestionIds
    start: int
    stop: int


class ContextWindows:
    """The windows of all questions, in order; implements `loader.Examples`."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = windows
        self.seq_len = max(1, sum(w.stop - w.start + len(w.row.question) for w in windows) // max(1, len(windows)))
        self.num_offsets = 1

    def __len__(self) -> int:
        return len(self.windows)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        return window, window + 1

    def row(self, window: int, offset: int = 0) -> Window:
        return self.windows[window]


class Found(NamedTuple):
    """The best answer in a window."""

    null: float
    """Score of no answer."""
    score: float
    start: int
    """Its first character in the context."""
    stop: int
    """The character after its last one."""


def best_answer(scores: np.ndarray, window: Window, first: int, longest: int) -> Found:
    """The best of the spans of at most `longest` tokens of the context.

    `scores` (T, 2) are those of start and end for the tokens of a row; the context begins at its token `first`.
    """
    null, size = float(scores[0].sum()), window.stop - window.start
    start, end = scores[first : first + size].T
    if not size:
        return Found(null, -ALWAYS, 0, 0)
    sums = [start[: size - extra] + end[extra:] for extra in range(min(longest, size))]
    extra = max(range(len(sums)), key=lambda k: sums[k].max())
    token = window.start + int(sums[extra].argmax())
    spans, text = window.row.spans, window.row.source.context
    return Found(
        null, float(sums[extra].max()), *without_blanks(text, int(spans[token, 0]), int(spans[token + extra, 1]))
    )


def best_threshold(margin: np.ndarray, f1: np.ndarray, unanswerable: np.ndarray) -> float:
    """The threshold of the highest mean F1; all (N,). `ALWAYS` if every question has an answer.

    A question whose `margin` is above the threshold gets no answer, which is worth `unanswerable`; otherwise it gets
    its answer, which is worth `f1`.
    """
    if not unanswerable.any():
        return ALWAYS
    order = margin.argsort(kind="stable")
    gain = np.concatenate([[0.0], (f1 - unanswerable)[order].cumsum()])  # of answering the first k questions
    k = int(gain.argmax())
    edges = np.concatenate([[margin[order[0]] - 1], margin[order], [margin[order[-1]] + 1]])
    return float((edges[k] + edges[k + 1]) / 2)


def most_like(source: Question) -> str:
    """The words that the question lacks, of the sentence of the context that has the most of its words."""
    asked = set(normalized(source.question).split())
    sentences = [normalized(sentence).split() for sentence in re.split(r"(?<=[.:;?!])\s+", source.context)]
    best = max(sentences, key=lambda words: len(asked & set(words)))
    return " ".join(word for word in best if word not in asked)
