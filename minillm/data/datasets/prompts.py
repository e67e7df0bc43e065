"""Prompts for reinforcement learning: a text to continue, and the fields of its record, which rewards may read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minillm.data import sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, prepare_examples
from minillm.data.sources.records import Tally, require_columns
from minillm.data.split import split_examples, text_hash

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


class Prompt(NamedTuple):
    """One record. The split keeps the examples of a group together."""

    text: str
    pair: str
    """Always "": a prompt is a single text."""
    where: str
    """Names the record in an error message."""
    group: str
    fields: Mapping[str, Any]
    """All fields of the record."""


class PromptIds(NamedTuple):
    """One tokenized prompt."""

    ids: np.ndarray
    """Begins with the tokens that the tokenizer puts before every text."""
    text: str
    where: str
    fields: Mapping[str, Any]


class Prompts:
    """The tokenized prompts of one split, in memory; implements `loader.Examples`."""

    def __init__(self, examples: list[Prompt], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        before = np.array(tokenizer.prefix_ids, np.int64)
        encoded = tokenizer.encode_batch([example.text for example in examples])
        self.rows = [
            PromptIds(np.concatenate((before, ids)).astype(np.int64), example.text, example.where, example.fields)
            for ids, example in zip(encoded, examples, strict=True)
        ]
        self.num_tokens = sum(len(row.ids) for row in self.rows)
        self.notes = notes

    @property
    def seq_len(self) -> int:
        """Average number of tokens in a prompt."""
        return max(1, self.num_tokens // len(self.rows))

    @property
    def num_offsets(self) -> int:
        return 1

    def __len__(self) -> int:
        return len(self.rows)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        return window, window + 1

    def row(self, window: int, offset: int = 0) -> PromptIds:
        return self.rows[window]


def prepare_prompt_data(
    config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False
) -> Corpus:
    """Like `corpus.prepare`, for prompts, which are held in memory."""
    return prepare_examples(
        config,
        tokenizer,
        read=lambda source: _read(source, config),
        split=lambda examples: split_examples(examples, config.validation_fraction, lambda _: ""),
        tokenize=Prompts,
    )


def read_prompt_data(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> Prompts:
    """All prompts of `source`, not split, to evaluate a trained model on."""
    read = _read(source, config)
    return Prompts(read.content, tokenizer, read.notes)


def _read(source: str, config: DataConfig) -> Source:
    """The prompts of a source in the order of their hashes."""
    tally = Tally("prompts")
    examples = list(islice(_examples(source, config, tally), config.max_documents))
    if not examples:
        raise ValueError(f"{source} has no prompt: add records with the field {config.prompt_field!r}")
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()))
    examples.sort(key=lambda example: (text_hash(example.text), json.dumps(example.fields, default=str)))
    return Source(examples, sources.fingerprint(source, f"prompts {config.prompt_field}"), notes)


def _examples(source: str, config: DataConfig, tally: Tally) -> Iterator[Prompt]:
    if source.startswith(sources.BUILTIN):
        raise ValueError(f"{source} has no prompts: give records with the field {config.prompt_field!r} (data.source)")
    for record in sources.read_records(source, {}):  # all fields
        require_columns(record.fields, {"data.prompt_field": config.prompt_field}, record.where)
        text = record.text(config.prompt_field)
        if tally.keeps(prompt=text):
            yield Prompt(text, "", record.where, text, record.fields)
