"""Labeled texts: a text, or a pair of texts, and its label, its labels, or its number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, prepare_examples
from minillm.data.datasets.rows import MemoryRows
from minillm.data.sources.records import Record, Tally
from minillm.data.sources.token_classes import NAME as TOKEN_CLASSES
from minillm.data.sources.token_classes import python_token_classes
from minillm.data.split import split_examples, text_hash

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


Label = str | tuple[str, ...]
"""The name of a label or a number, as text; or the names of several labels."""


class Labeled(NamedTuple):
    """One example. The split keeps the examples of a group together."""

    text: str
    pair: str
    """The second text; "" for none."""
    label: Label
    where: str
    """Names the example in an error message."""
    group: str


class LabeledIds(NamedTuple):
    """One tokenized example; `second` is empty if there is only one text."""

    first: np.ndarray
    second: np.ndarray
    label: Label
    where: str


class LabeledTokens(MemoryRows[LabeledIds]):
    """The tokenized examples of one split, in memory."""

    def __init__(self, examples: list[Labeled], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        firsts = tokenizer.encode_batch([example.text for example in examples])
        seconds = tokenizer.encode_batch([example.pair for example in examples])
        self.rows = [
            LabeledIds(first, second, example.label, example.where)
            for first, second, example in zip(firsts, seconds, examples, strict=True)
        ]
        self.num_tokens = sum(len(row.first) + len(row.second) for row in self.rows)
        self.notes = notes


def prepare_labeled(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for labeled texts, which are held in memory."""
    return prepare_examples(
        config,
        tokenizer,
        read=lambda source: read_source(source, config),
        split=lambda examples: split_examples(examples, config.validation_fraction, lambda _: ""),
        tokenize=LabeledTokens,
    )


def read_labeled(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> LabeledTokens:
    """All examples of `source`, not split, to evaluate a trained model on."""
    read = read_source(source, config)
    return LabeledTokens(read.content, tokenizer, read.notes)


def read_inputs(texts: Sequence[str], source: str | None, config: DataConfig) -> list[Labeled]:
    """Examples without labels, from `texts` or from `source`; for pairs, two texts make an example."""
    if source is None:
        step = 2 if config.pair_field else 1
        if len(texts) % step:
            raise ValueError(f"this run reads pairs of texts, so give two texts for each; there are {len(texts)}")
        pairs = texts[1::2] if config.pair_field else [""] * len(texts)
        found = zip(texts[::step], pairs, strict=True)
        return [Labeled(text, pair, "", f"text {n}", "") for n, (text, pair) in enumerate(found, 1)]
    records = sources.read_records(source, _columns(config))
    return [Labeled(*_texts(record, config), "", record.where, "") for record in islice(records, config.max_documents)]


def read_source(source: str, config: DataConfig) -> Source:
    """The examples of a source in the order of their hashes."""
    tally = Tally("examples")
    examples = list(islice(_examples(source, config, tally), config.max_documents))
    if not examples:
        raise ValueError(f"{source} has no examples with a text and a label: add some")
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()))
    examples.sort(key=lambda one: (text_hash(one.text + one.pair), one.text, one.pair, str(one.label), one.where))
    return Source(examples, _fingerprint(source, config), notes)


def _examples(source: str, config: DataConfig, tally: Tally) -> Iterator[Labeled]:
    if source == TOKEN_CLASSES:
        for gap in python_token_classes():
            yield Labeled(gap.before, gap.after, gap.label, source, gap.group)
        return
    columns = _columns(config) | {"data.label_field": config.label_field}
    for record in sources.read_records(source, columns):
        (text, pair), label = _texts(record, config), _label(record, config)
        if tally.keeps(text=text, label=label if isinstance(label, str) else config.label_field):
            yield Labeled(text, pair, label, record.where, text)


def _columns(config: DataConfig) -> dict[str, str]:
    pair = {"data.pair_field": config.pair_field} if config.pair_field else {}
    return {"data.field": config.field} | pair


def _texts(record: Record, config: DataConfig) -> tuple[str, str]:
    return record.text(config.field), record.text(config.pair_field) if config.pair_field else ""


def _label(record: Record, config: DataConfig) -> Label:
    """The label; numbers become text, and a list of labels becomes a tuple."""
    value = record.fields[config.label_field]
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(_name(item, record, config) for item in value))
    name = "" if value is None else _name(value, record, config)
    if config.label_separator is None:
        return name
    return tuple(dict.fromkeys(part.strip() for part in name.split(config.label_separator) if part.strip()))


def _name(value: object, record: Record, config: DataConfig) -> str:
    if isinstance(value, Real):
        return str(value).lower()
    if isinstance(value, str):
        return Record({config.label_field: value}, record.where).text(config.label_field)
    raise ValueError(
        f"field {config.label_field!r} of {record.where} is {type(value).__name__}: a label is text, a number, or a "
        "list of them; correct it or choose another field (data.label_field)"
    )


def _fingerprint(source: str, config: DataConfig) -> str:
    if source == TOKEN_CLASSES:
        return cache.key(source, sources.fingerprint(f"{sources.BUILTIN}python-stdlib"))
    fields = f"{config.field} {config.pair_field} {config.label_field}"
    fields += f" {config.label_separator}" if config.label_separator else ""
    return hashlib.sha256(sources.fingerprint(source, fields).encode()).hexdigest()
