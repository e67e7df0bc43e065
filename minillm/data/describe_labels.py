"""Summarizes data with labels, tags or answers as training reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from minillm.data.config import DataConfig
from minillm.data.datasets import labeled, questions, tagged
from minillm.data.datasets.corpus import Source, TokenizerBuilder, texts
from minillm.data.describe import Description

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

MAX_LABELS = 20
"""Maximum number of labels shown; the most frequent come first."""


def describe_labeled(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool) -> Description:
    """Labels with their shares; the sample has its label in double brackets."""
    found = labeled.read_source(config.source, config)
    named = [one.label if isinstance(one.label, tuple) else (one.label,) for one in found.content]
    labels = Counter(name for names in named for name in names)
    rows = labeled.LabeledTokens(found.content, _made(found, tokenizer)).rows
    first = found.content[0]
    sample = " | ".join(filter(None, (first.text, first.pair))) + f" -> [[{first.label}]]"
    lengths = [len(row.first) + len(row.second) for row in rows]
    return _description(config, found, lengths, {"labels": _shares(labels, len(rows))}, sample)


def describe_tagged(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool) -> Description:
    """Tags with their shares; in the sample each tag is in double brackets after its word."""
    found = tagged.read_source(config.source, config)
    tags = Counter(tag for one in found.content for tag in one.tags)
    rows = tagged.TaggedTokens(found.content, _made(found, tokenizer)).rows
    first = found.content[0]
    sample = " ".join(f"{word}[[{tag}]]" for word, tag in zip(first.words, first.tags, strict=True))
    lengths = [sum(map(len, row.ids)) for row in rows]
    return _description(config, found, lengths, {"tags": _shares(tags, tags.total())}, sample)


def describe_questions(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool) -> Description:
    """The number of questions without an answer; in the sample the answer is in double brackets."""
    found = questions.read_source(config.source, config)
    rows = questions.QuestionTokens(found.content, _made(found, tokenizer)).rows
    first = next((one for one in found.content if one.answers), found.content[0])
    sample = f"{first.question} | {first.context}"
    if first.answers:
        start, stop = first.answers[0].start, first.answers[0].start + len(first.answers[0].text)
        marked = f"[[{first.context[start:stop]}]]"
        sample = f"{first.question} | {first.context[:start]}{marked}{first.context[stop:]}"
    without = sum(not one.answers for one in found.content)
    lengths = [len(row.question) + len(row.context) for row in rows]
    return _description(config, found, lengths, {"without an answer": without}, sample)


def _made(found: Source, tokenizer: Tokenizer | TokenizerBuilder) -> Tokenizer:
    return tokenizer(texts(found.content), ()) if callable(tokenizer) else tokenizer


def _shares(counts: Counter[str], total: int) -> dict[str, str]:
    """Each name with its number and its share, the most frequent first."""
    return {name: f"{number:,} ({number / total:.1%})" for name, number in counts.most_common(MAX_LABELS)}


def _description(
    config: DataConfig, found: Source, lengths: Sequence[int], figures: dict[str, object], sample: str
) -> Description:
    whole = list(texts(found.content))
    num_bytes, num_tokens = sum(len(text.encode("utf-8")) for text in whole), sum(lengths)
    size = num_bytes, sum(map(len, whole)), num_tokens, num_bytes / max(1, num_tokens)
    figures = {**figures, "median tokens": int(median(lengths)), "longest tokens": max(lengths)}
    examples = len(found.content)
    rest = {"sample": sample, "notes": found.notes, "figures": figures}
    return Description(config.source, found.fingerprint, examples, *size, **rest)
