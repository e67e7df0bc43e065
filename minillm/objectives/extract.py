"""Finds the answer to a question as a span of a context (Devlin et al. 2019, sections 4.2 and 4.3).

The model reads `[CLS] question [SEP] part of the context [SEP]` and scores each token as the start and as the end of
the answer. A longer context is read in overlapping windows. [CLS] is the span of "no answer": the target of windows
without the answer. A question has no answer if that score, the lowest of its windows, exceeds the best span's by more
than a threshold, which is chosen on the validation data.

The softmax of the loss covers the real tokens of a row, so that padding changes nothing; transformers' covers the
padding too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.questions import Question, QuestionIds, QuestionTokens
from minillm.data.sources.squad import exact_match, token_f1
from minillm.nn.output import Output
from minillm.objectives.answer_spans import ContextWindows, Found, Window, best_answer, best_threshold, most_like
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, Predictor, RowRNG, Score, Setup
from minillm.objectives.base import TokenLossConfig as TokenLossConfig
from minillm.objectives.layout import by_length, pad
from minillm.objectives.text_layout import TextLayout
from minillm.settings import setting

PREDICT_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(TokenLossConfig):
    """Find the answer to a question in a context (Devlin et al. 2019, sections 4.2 and 4.3)."""

    name: str = "extract"
    stride: int = setting(128, at_least=0)
    """Tokens that the windows of a long context have in common; at most half of a window."""
    max_question_len: int = setting(64, at_least=1)
    """Maximum tokens of a question; the end of a longer one is truncated. Devlin et al.'s code uses 64."""
    max_answer_len: int = setting(30, at_least=1)
    """Maximum tokens of a predicted answer. Devlin et al.'s code uses 30."""
    null_threshold: float | None = setting(None)
    """How much the score of "no answer" must exceed that of the best answer; None: chosen after training so that the F1
    of the validation questions is highest."""


@dataclass(frozen=True, kw_only=True)
class Extract(CrossEntropyObjective):
    """Predict the start and the end of the answer."""

    layout: TextLayout
    stride: int
    max_question_len: int
    max_answer_len: int
    null_threshold: float | None
    token_types: bool

    primary: ClassVar[str] = "f1"

    @property
    def heads(self) -> tuple[str, ...]:
        return ("span",)

    @property
    def targets(self) -> dict[str, str]:
        return {"span": "span"}

    def examples(self, tokens: QuestionTokens, data: DataConfig, length: int, *, training: bool) -> ContextWindows:
        return ContextWindows([window for row in tokens.rows for window in self.windows(row)])

    @property
    def room(self) -> int:
        """Tokens of a row besides its special tokens."""
        layout = self.layout
        return layout.max_len - len(layout.before) - len(layout.between) - len(layout.after)

    def question(self, row: QuestionIds) -> np.ndarray:
        """The question, at most half of a row."""
        return row.question[: min(self.max_question_len, max(1, self.room // 2))]

    def windows(self, row: QuestionIds) -> list[Window]:
        """The windows over a context, each as long as possible; at least one."""
        room, length = max(1, self.room - len(self.question(row))), len(row.context)
        step = room - min(self.stride, room // 2)
        starts = range(0, max(1, length - room + step), step)
        return [Window(row, start, min(start + room, length)) for start in starts]

    def first(self, window: Window) -> int:
        """Index of the first token of the context in the row."""
        return len(self.layout.before) + len(self.question(window.row)) + len(self.layout.between)

    def inputs(self, windows: Sequence[Window]) -> dict[str, Tensor]:
        """tokens, key_valid if any row is padded, and token_types, all (B, T)."""
        layout, questions = self.layout, [self.question(window.row) for window in windows]
        parts = [row.context[start:stop] for row, start, stop in windows]
        rows = [
            np.concatenate([layout.before, asked, layout.between, part, layout.after]).astype(np.int64)
            for asked, part in zip(questions, parts, strict=True)
        ]
        tokens, valid = pad(rows, self.pad_id, round_below=layout.max_len)
        inputs = {"tokens": tokens} | ({} if valid.all() else {"key_valid": valid})
        if self.token_types:
            firsts = torch.tensor([[self.first(window)] for window in windows])
            of_context = (torch.arange(tokens.size(1)) >= firsts) & valid
            inputs["token_types"] = of_context.long() * layout.second_type
        return inputs

    def target(self, window: Window) -> tuple[int, int]:
        """Start and end of the answer in the row; [CLS] for both if the window does not hold all of it."""
        target = window.row.target
        if target is None or target[0] < window.start or target[1] >= window.stop:
            return 0, 0
        shift = self.first(window) - window.start
        return target[0] + shift, target[1] + shift

    def collate(self, examples: Sequence[Window], rng: RowRNG) -> Batch:
        """The inputs; labels span (B, 2), start and end, and real (B, T), False for padding."""
        inputs = self.inputs(examples)
        real = inputs.get("key_valid", torch.ones_like(inputs["tokens"], dtype=torch.bool))
        labels = {"span": torch.tensor([self.target(window) for window in examples]), "real": real}
        return Batch(inputs, labels, {"span": len(examples)}, int(real.sum()), examples)

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """The mean of the cross-entropies of start and end, summed over the rows."""
        real, target = labels["real"][..., None], labels["span"]  # (B, T, 1), (B, 2)
        logits = output.logits["span"].float().masked_fill(~real, -torch.inf)  # (B, T, 2)
        log_z = logits.logsumexp(1)  # (B, 2)
        loss = log_z - logits.take_along_dim(target[:, None], dim=1)[:, 0]
        if training:
            uniform = log_z - logits.masked_fill(~real, 0.0).sum(1) / real.sum(1)
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * uniform + self.z_loss * log_z.square()
        correct = None if training else (logits.argmax(1) == target).all(1).sum()
        return {"span": Score(loss.sum() / 2, correct)}

    def measure(self, output: Output, batch: Batch) -> np.ndarray | None:
        """(B, 6) for each window: its question, the scores of no answer and of the best answer, the exact match and the
        F1 of that answer, and whether the question has no answer.
        """
        rows = []
        for window, found in zip(batch.examples, self.best(output.logits["span"], batch.examples), strict=True):
            source = window.row.source
            wanted, answer = [one.text for one in source.answers] or [""], source.context[found.start : found.stop]
            scores = exact_match(answer, wanted), token_f1(answer, wanted)
            rows.append([window.row.number, found.null, found.score, *scores, not source.answers])
        return np.array(rows, np.float64)

    def best(self, logits: Tensor, windows: Sequence[Window]) -> list[Found]:
        """The best answer in each window, from the logits (B, T, 2)."""
        scores = logits.float().cpu().numpy()
        longest, first = self.max_answer_len, self.first
        return [best_answer(own, window, first(window), longest) for own, window in zip(scores, windows, strict=True)]

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        """SQuAD's scores; without a threshold, those of the best one for this data, and that threshold."""
        _, question = np.unique(measured[:, 0], return_inverse=True)
        null, best = np.full(question.max() + 1, np.inf), np.zeros(question.max() + 1, np.int64)
        np.minimum.at(null, question, measured[:, 1])
        order = measured[:, 2].argsort(kind="stable")
        best[question[order]] = order  # the last one of each question, its best, stays
        score, exact, f1, unanswerable = measured[best, 2:].T
        margin, threshold = null - score, self.null_threshold
        if threshold is None:
            threshold = best_threshold(margin, f1, unanswerable)
        empty = margin > threshold
        figures = {"exact_match": np.where(empty, unanswerable, exact), "f1": np.where(empty, unanswerable, f1)}
        tuned = {"null_threshold": threshold} if self.null_threshold is None else {}
        return {name: float(values.mean()) for name, values in figures.items()} | tuned

    def prompt(self, example: Any, decode: Decode) -> str:
        return ""

    def describe_cuts(self, tokens: QuestionTokens) -> list[str]:
        """Numbers of truncated questions, and of answers that no window holds."""
        cut = sum(len(row.question) > len(self.question(row)) for row in tokens.rows)
        lost = sum(
            row.target is not None and not any(map(any, map(self.target, self.windows(row)))) for row in tokens.rows
        )
        notes = {"questions are truncated": cut, "answers do not fit into a window and are not learned": lost}
        return [f"{number:,} of {len(tokens.rows):,} {what}" for what, number in notes.items() if number]


def build(config: ExtractConfig, setup: Setup) -> Extract:
    """The objective for BERT."""
    ids = setup.tokenizer
    return Extract(
        ids.pad_id,
        config.label_smoothing,
        config.z_loss,
        layout=TextLayout.of_encoder(ids, setup.seq_len),
        stride=config.stride,
        max_question_len=config.max_question_len,
        max_answer_len=config.max_answer_len,
        null_threshold=config.null_threshold,
        token_types=setup.model.num_token_types > 1,
    )


def tune(config: ExtractConfig, figures: dict[str, float]) -> ExtractConfig:
    """Store the threshold that was best for the validation data."""
    if config.null_threshold is not None:
        return config
    return replace(config, null_threshold=round(figures["null_threshold"], 4))


def predict(predictor: Predictor, examples: Sequence[Question]) -> list[dict[str, Any]]:
    """For each question the answer with its characters in the context; "" for no answer."""
    objective: Extract = predictor.objective
    rows = QuestionTokens(examples, predictor.tokenizer).rows
    windows = [window for row in rows for window in objective.windows(row)]
    found: list[list[Found]] = [[] for _ in rows]
    for part in by_length([w.stop - w.start + len(w.row.question) for w in windows], PREDICT_BATCH):
        chosen = [windows[i] for i in part]
        logits = predictor.forward(objective.inputs(chosen)).logits["span"]
        for window, one in zip(chosen, objective.best(logits, chosen), strict=True):
            found[window.row.number].append(one)
    return [_result(row.source, own, objective.null_threshold) for row, own in zip(rows, found, strict=True)]


def _result(source: Question, found: Sequence[Found], threshold: float | None) -> dict[str, Any]:
    """The score is that of the answer minus that of no answer."""
    best, null = max(found, key=lambda one: one.score), min(one.null for one in found)
    start, stop = best.start, best.stop
    if null - best.score > (0.0 if threshold is None else threshold):
        start = stop = 0
    answer = {"answer": source.context[start:stop], "start": start, "end": stop, "score": best.score - null}
    return {"question": source.question} | answer


def overlap_figures(measured: Any) -> dict[str, float]:
    """F1 of two guesses: no answer, and those words of the sentence most like the question that the question lacks.

    Takes a Measurement. The second is the sentence of the sliding-window baseline of Richardson et al. 2013.
    """
    sources = [row.source for row in measured.tokens.rows]
    wanted = [[answer.text for answer in source.answers] or [""] for source in sources]
    guesses = {"no_answer_f1": ["" for _ in sources], "best_sentence_f1": [most_like(source) for source in sources]}
    return {
        name: float(np.mean([token_f1(guess, own) for guess, own in zip(some, wanted, strict=True)]))
        for name, some in guesses.items()
    }
