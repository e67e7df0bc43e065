"""Labelled texts: a text, or a pair of texts, and the name of its class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, CorpusInfo, SplitInfo, TokenizerBuilder, overlap
from minillm.data.sources.records import Tally
from minillm.data.sources.token_classes import NAME as TOKEN_CLASSES
from minillm.data.sources.token_classes import python_token_classes
from minillm.data.split import text_hash

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


class Labelled(NamedTuple):
    """One example as it was read."""

    text: str
    pair: str
    """The second text; "" for none."""
    label: str
    where: str
    """Names it in an error."""
    group: str
    """Examples of one group are never split between training and validation."""


class LabelledIds(NamedTuple):
    """One example in ids."""

    first: np.ndarray
    second: np.ndarray
    """Empty where there is one text."""
    label: str
    where: str


class LabelledTokens:
    """The examples of one split, in ids and in memory; also what a loader deals out, one by one."""

    unit: ClassVar[str] = "examples"

    def __init__(self, examples: list[Labelled], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        firsts = tokenizer.encode_batch([example.text for example in examples])
        seconds = tokenizer.encode_batch([example.pair for example in examples])
        self.rows = [
            LabelledIds(first, second, example.label, example.where)
            for first, second, example in zip(firsts, seconds, examples, strict=True)
        ]
        self.num_tokens = sum(len(row.first) + len(row.second) for row in self.rows)
        self.num_bytes = sum(len((example.text + example.pair).encode("utf-8")) for example in examples)
        self.notes = notes

    @property
    def seq_len(self) -> int:
        """Tokens in an example on average."""
        return max(1, self.num_tokens // len(self.rows))

    @property
    def num_offsets(self) -> int:
        return 1

    def __len__(self) -> int:
        return len(self.rows)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        return window, window + 1

    def row(self, window: int, offset: int = 0) -> LabelledIds:
        return self.rows[window]


def prepare_labelled(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for labelled texts; they are held in memory.

    Raises:
        FileNotFoundError, ValueError, OSError: the source or a setting is at fault; one line that names it.
    """
    train, notes = _read(config.source, config)
    key = _fingerprint(config.source, config)
    if config.validation is None:
        train, validation = _split(train, config.validation_fraction)
    else:
        validation, more = _read(config.validation, config)
        other = _fingerprint(config.validation, config)
        if other == key:
            raise ValueError(f"data.validation {config.validation} is the training data itself: give other data")
        notes, key = notes + more + overlap(_hashes(train), _hashes(validation), "examples"), cache.key(key, other)
    if callable(tokenizer):
        tokenizer = tokenizer(_texts(train), _texts(validation))
    parts = LabelledTokens(train, tokenizer), LabelledTokens(validation, tokenizer)
    sizes = [SplitInfo(len(part), part.num_bytes, part.num_tokens) for part in parts]
    return Corpus(*parts, tokenizer, CorpusInfo(config.source, key, config.validation, *sizes), notes)


def read_labelled(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> LabelledTokens:
    """All examples of `source`, without a split, to evaluate a trained model on."""
    examples, notes = _read(source, config)
    return LabelledTokens(examples, tokenizer, notes)


def _read(source: str, config: DataConfig) -> tuple[list[Labelled], tuple[str, ...]]:
    """The examples of a source in the order of their hashes, and what was left out of it."""
    tally = Tally("examples")
    examples = list(islice(_examples(source, config, tally), config.max_documents))
    if not examples:
        raise ValueError(f"{source} has no example with a text and a label: add examples")
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()))
    return sorted(examples, key=lambda example: (text_hash(example.text + example.pair), example)), notes


def _examples(source: str, config: DataConfig, tally: Tally) -> Iterator[Labelled]:
    if source == TOKEN_CLASSES:
        for gap in python_token_classes():
            yield Labelled(gap.before, gap.after, gap.label, source, gap.group)
        return
    columns = {"data.field": config.field, "data.label_field": config.label_field}
    columns |= {"data.pair_field": config.pair_field} if config.pair_field else {}
    for record in sources.read_records(source, columns):
        text, label = record.text(config.field), record.text(config.label_field)
        pair = record.text(config.pair_field) if config.pair_field else ""
        tally.total += 1
        if text and label:
            yield Labelled(text, pair, label, record.where, text)
        else:
            tally.reasons["empty label" if text else "empty text"] += 1


def _split(examples: list[Labelled], fraction: float) -> tuple[list[Labelled], list[Labelled]]:
    """Training and validation examples: whole groups, in the order of their hashes, until validation has its share."""
    groups: dict[str, int] = {}
    for example in examples:
        groups[example.group] = groups.get(example.group, 0) + 1
    if len(groups) < 2:
        raise ValueError("there are fewer than two different examples to split: add examples, or set data.validation")
    wanted, held = fraction * len(examples), set[str]()
    for group in sorted(groups, key=text_hash)[:-1]:
        if sum(groups[name] for name in held) >= wanted:
            break
        held.add(group)
    return [e for e in examples if e.group not in held], [e for e in examples if e.group in held]


def _hashes(examples: list[Labelled]) -> np.ndarray:
    return np.array([text_hash(json.dumps(example[:2])) for example in examples], np.uint64)


def _fingerprint(source: str, config: DataConfig) -> str:
    """Hash of the content that the examples are read from."""
    if source == TOKEN_CLASSES:
        return cache.key(source, sources.fingerprint(f"{sources.BUILTIN}python-stdlib"))
    fields = f"{config.field} {config.pair_field} {config.label_field}"
    return hashlib.sha256(sources.fingerprint(source, fields).encode()).hexdigest()


def _texts(examples: list[Labelled]) -> Iterator[str]:
    return (text for example in examples for text in (example.text, example.pair))
