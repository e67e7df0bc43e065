"""Questions whose answers are spans of a context (Rajpurkar et al. 2016)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, prepare_examples
from minillm.data.sources.made_questions import NAME as MADE
from minillm.data.sources.made_questions import made_questions
from minillm.data.sources.records import Record, Tally
from minillm.data.split import split_examples, text_hash
from minillm.tokenizers.spans import overlapping

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


class Answer(NamedTuple):
    """A span of the context."""

    text: str
    start: int
    """Its first character in the context."""


class Question(NamedTuple):
    """One example. The split keeps the questions of a group together."""

    question: str
    context: str
    answers: tuple[Answer, ...]
    """Empty if the context does not answer the question."""
    where: str
    """Names the question in a message."""
    group: str


class QuestionIds(NamedTuple):
    """One tokenized question."""

    question: np.ndarray
    context: np.ndarray
    spans: np.ndarray
    """(N, 2) [start, stop) characters of each token of the context."""
    target: tuple[int, int] | None
    """First and last token of the first answer; None if there is no answer."""
    source: Question
    number: int
    """Its place in the data set."""


class QuestionTokens:
    """The tokenized questions of one split, in memory."""

    def __init__(self, examples: Sequence[Question], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        """Answers without a token, such as a single blank, are left out; a note counts them."""
        contexts = {text: tokenizer.encode_with_spans(text) for text in {one.context for one in examples}}
        asked = tokenizer.encode_batch([one.question for one in examples])
        self.rows: list[QuestionIds] = []
        lost = 0
        for ids, example in zip(asked, examples, strict=True):
            context, spans = contexts[example.context]
            target = None
            if example.answers:
                text, start = example.answers[0]
                target = overlapping(spans, start, start + len(text))
                if target is None:
                    lost += 1
                    continue
            self.rows.append(QuestionIds(ids, context, spans, target, example, len(self.rows)))
        self.num_tokens = sum(len(row.question) + len(row.context) for row in self.rows)
        left_out = f"{lost:,} of {len(examples):,} questions passed over: no token of the answer"
        self.notes = (*notes, left_out) if lost else notes


def prepare_questions(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for questions, which are held in memory."""
    return prepare_examples(
        config,
        tokenizer,
        read=lambda source: read_source(source, config),
        split=lambda examples: split_examples(examples, config.validation_fraction, lambda _: ""),
        tokenize=QuestionTokens,
    )


def read_questions(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> QuestionTokens:
    """All questions of `source`, not split, to evaluate a trained model on."""
    read = read_source(source, config)
    return QuestionTokens(read.content, tokenizer, read.notes)


def read_inputs(texts: Sequence[str], source: str | None, config: DataConfig) -> list[Question]:
    """Questions without answers: `texts` are a question, its context, the next question and so on."""
    if source is None:
        if len(texts) % 2:
            raise ValueError(f"give each question followed by its context; there are {len(texts)} texts")
        pairs = zip(texts[::2], texts[1::2], strict=True)
        return [Question(asked, context, (), f"text {2 * n + 1}", "") for n, (asked, context) in enumerate(pairs)]
    columns = {"data.question_field": config.question_field, "data.context_field": config.context_field}
    records = islice(sources.read_records(source, columns), config.max_documents)
    return [
        Question(record.text(config.question_field), record.text(config.context_field), (), record.where, "")
        for record in records
    ]


def read_source(source: str, config: DataConfig) -> Source:
    """The questions of a source in the order of their hashes; ValueError if none can be used."""
    tally, misaligned = Tally("questions"), []
    examples = list(islice(_questions(source, config, tally, misaligned), config.max_documents))
    if not examples:
        why = f"; {misaligned[0]}" if misaligned else ""
        raise ValueError(f"{source} has no questions with a context{why}: add some, or correct them")
    examples.sort(key=lambda one: (text_hash(one.question + one.context), *one))
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()), *misaligned[:1])
    return Source(examples, _fingerprint(source, config), notes)


def _questions(source: str, config: DataConfig, tally: Tally, misaligned: list[str]) -> Iterator[Question]:
    if source == MADE:
        for made in made_questions():
            answers = (Answer(made.answer, made.start),) if made.answer else ()
            yield Question(made.question, made.context, answers, source, made.group)
        return
    columns = {"data.question_field": config.question_field, "data.context_field": config.context_field}
    for record in sources.read_records(source, columns | {"data.answers_field": config.answers_field}):
        question, context = record.text(config.question_field), record.text(config.context_field)
        if not tally.keeps(question=question, context=context):
            continue
        found, right = _answers(record, config.answers_field, context), []
        for answer in found:
            there = context[answer.start : answer.start + len(answer.text)] if answer.start >= 0 else "nothing"
            if there == answer.text:
                right.append(answer)
            else:
                place = (
                    f"at character {answer.start} of its context, where {there!r} is"
                    if answer.start >= 0
                    else "in its context"
                )
                misaligned.append(f"{record.where}: the answer {answer.text!r} is not {place}")
        if found and not right:
            tally.reasons["answer not in its place"] += 1
        else:
            yield Question(question, context, tuple(right), record.where, context)


def _answers(record: Record, field: str, context: str) -> list[Answer]:
    """The answers of a record in any of the three forms; ValueError for another one."""
    value: Any = record.fields[field]
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [Answer(value, context.find(value))]
    if isinstance(value, dict):
        try:
            value = [{"text": a, "answer_start": b} for a, b in zip(value["text"], value["answer_start"], strict=True)]
        except (KeyError, TypeError, ValueError):
            value = None
    items: list[Any] = value if isinstance(value, list) else [None]
    if not all(
        isinstance(item, dict) and isinstance(item.get("text"), str) and isinstance(item.get("answer_start"), int)
        for item in items
    ):
        raise ValueError(
            f"field {field!r} of {record.where} holds no answers; write "
            '{"text": [...], "answer_start": [...]}, a list of {"text": ..., "answer_start": ...}, or a text'
        )
    return [Answer(item["text"], item["answer_start"]) for item in items if item["text"]]


def _fingerprint(source: str, config: DataConfig) -> str:
    if source == MADE:
        return cache.key(MADE, sources.fingerprint(f"{sources.BUILTIN}python-docs"))
    fields = f"{config.question_field} {config.context_field} {config.answers_field}"
    return hashlib.sha256(sources.fingerprint(source, fields).encode()).hexdigest()
