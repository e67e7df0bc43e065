"""Labeled texts: a text, or a pair of texts, and the name of its class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, prepare_examples
from minillm.data.sources.records import Tally
from minillm.data.sources.token_classes import NAME as TOKEN_CLASSES
from minillm.data.sources.token_classes import python_token_classes
from minillm.data.split import split_examples, text_hash

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


class Labeled(NamedTuple):
    """One example. The split keeps the examples of a group together."""

    text: str
    pair: str
    """The second text; "" for none."""
    label: str
    where: str
    """Names the example in an error message."""
    group: str


class LabeledIds(NamedTuple):
    """One tokenized example; `second` is empty if there is only one text."""

    first: np.ndarray
    second: np.ndarray
    label: str
    where: str


class LabeledTokens:
    """The tokenized examples of one split, in memory; implements `loader.Examples`."""

    def __init__(self, examples: list[Labeled], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        firsts = tokenizer.encode_batch([example.text for example in examples])
        seconds = tokenizer.encode_batch([example.pair for example in examples])
        self.rows = [
            LabeledIds(first, second, example.label, example.where)
            for first, second, example in zip(firsts, seconds, examples, strict=True)
        ]
        self.num_tokens = sum(len(row.first) + len(row.second) for row in self.rows)
        self.notes = notes

    @property
    def seq_len(self) -> int:
        """Average number of tokens in an example."""
        return max(1, self.num_tokens // len(self.rows))

    @property
    def num_offsets(self) -> int:
        return 1

    def __len__(self) -> int:
        return len(self.rows)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        return window, window + 1

    def row(self, window: int, offset: int = 0) -> LabeledIds:
        return self.rows[window]


def prepare_labeled(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for labeled texts, which are held in memory."""
    return prepare_examples(
        config,
        tokenizer,
        read=lambda source: _read(source, config),
        split=lambda examples: split_examples(examples, config.validation_fraction, lambda _: ""),
        tokenize=LabeledTokens,
    )


def read_labeled(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> LabeledTokens:
    """All examples of `source`, not split, to evaluate a trained model on."""
    read = _read(source, config)
    return LabeledTokens(read.content, tokenizer, read.notes)


def _read(source: str, config: DataConfig) -> Source:
    """The examples of a source in the order of their hashes."""
    tally = Tally("examples")
    examples = list(islice(_examples(source, config, tally), config.max_documents))
    if not examples:
        raise ValueError(f"{source} has no example with a text and a label: add examples")
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()))
    examples.sort(key=lambda example: (text_hash(example.text + example.pair), example))
    return Source(examples, _fingerprint(source, config), notes)


def _examples(source: str, config: DataConfig, tally: Tally) -> Iterator[Labeled]:
    if source == TOKEN_CLASSES:
        for gap in python_token_classes():
            yield Labeled(gap.before, gap.after, gap.label, source, gap.group)
        return
    columns = {"data.field": config.field, "data.label_field": config.label_field}
    columns |= {"data.pair_field": config.pair_field} if config.pair_field else {}
    for record in sources.read_records(source, columns):
        text, label = record.text(config.field), record.text(config.label_field)
        pair = record.text(config.pair_field) if config.pair_field else ""
        if tally.keeps(text=text, label=label):
            yield Labeled(text, pair, label, record.where, text)


def _fingerprint(source: str, config: DataConfig) -> str:
    if source == TOKEN_CLASSES:
        return cache.key(source, sources.fingerprint(f"{sources.BUILTIN}python-stdlib"))
    fields = f"{config.field} {config.pair_field} {config.label_field}"
    return hashlib.sha256(sources.fingerprint(source, fields).encode()).hexdigest()
