"""Summarizes labels, tags, answers, preferences and prompts as training reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from minillm.data.config import DataConfig
from minillm.data.datasets import labeled, preferences, prompts, questions, tagged
from minillm.data.datasets.chat import with_template
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


def describe_preferences(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool) -> Description:
    """How often the better answer is the longer one; the sample has it in double brackets, before the worse one."""
    found = preferences.read_source(config.source, config)
    framed = any(not isinstance(one.prompt, str) for one in found.content)
    made = _made(found, tokenizer, framed=framed)
    rows = preferences.PreferenceTokens(found.content, made).rows
    longer = sum(len(row.chosen) > len(row.rejected) for row in rows)
    figures: dict[str, object] = {"better answer longer": f"{longer:,} ({longer / len(rows):.1%})"}
    if framed:
        figures["conversations"] = sum(row.framed for row in rows)
    first, row = found.content[0], rows[0]
    sample = f"{first.prompt}[[{first.chosen}]] rather than: {first.rejected}"
    if row.framed:
        prompt, better, worse = (made.decode(ids, keep_special=True) for ids in (row.prompt, row.chosen, row.rejected))
        sample = f"{prompt}[[{better}]] rather than: {worse}"
    lengths = [len(row.prompt) + max(len(row.chosen), len(row.rejected)) for row in rows]
    total = sum(len(row.prompt) + len(row.chosen) + len(row.rejected) for row in rows)
    return _description(config, found, lengths, figures, sample, num_tokens=total)


def describe_prompts(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool) -> Description:
    """The other fields of the records, which rewards may read; the sample is a prompt with them."""
    found = prompts.read_source(config.source, config)
    made = _made(found, tokenizer, framed=any(one.messages for one in found.content))
    rows = prompts.Prompts(found.content, made).rows
    fields = Counter(name for row in rows for name in row.fields if name != config.prompt_field)
    first = {name: value for name, value in rows[0].fields.items() if name != config.prompt_field}
    sample = made.decode(rows[0].ids, keep_special=True) + "".join(f" | {name}: {one}" for name, one in first.items())
    figures: dict[str, object] = {"other fields": dict(fields)} if fields else {}
    return _description(config, found, [len(row.ids) for row in rows], figures, sample)


def _made(found: Source, tokenizer: Tokenizer | TokenizerBuilder, *, framed: bool = False) -> Tokenizer:
    """The tokenizer; `framed`: with a chat template, for conversations."""
    made = tokenizer(texts(found.content), ()) if callable(tokenizer) else tokenizer
    return with_template(made) if framed else made


def _shares(counts: Counter[str], total: int) -> dict[str, str]:
    """Each name with its number and its share, the most frequent first."""
    return {name: f"{number:,} ({number / total:.1%})" for name, number in counts.most_common(MAX_LABELS)}


def _description(
    config: DataConfig,
    found: Source,
    lengths: Sequence[int],
    figures: dict[str, object],
    sample: str,
    num_tokens: int | None = None,
) -> Description:
    """`lengths` are the tokens of each sequence that the model reads; `num_tokens` None: their sum."""
    whole = list(texts(found.content))
    num_bytes = sum(len(text.encode("utf-8")) for text in whole)
    num_tokens = sum(lengths) if num_tokens is None else num_tokens
    size = num_bytes, sum(map(len, whole)), num_tokens, num_bytes / max(1, num_tokens)
    figures = {**figures, "median tokens": int(median(lengths)), "longest tokens": max(lengths)}
    examples = len(found.content)
    rest = {"sample": sample, "notes": found.notes, "figures": figures}
    return Description(config.source, found.fingerprint, examples, *size, **rest)
