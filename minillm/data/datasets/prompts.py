"""Prompts for reinforcement learning, and the fields of their records, which rewards may read.

{"prompt": "12+34=", "answer": "46"}                                      a text to continue
{"prompt": [{"role": "user", "content": "12+34?"}], "answer": "46"}       a conversation to answer
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minillm.data import sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, prepare_examples
from minillm.data.datasets.rows import MemoryRows
from minillm.data.sources.records import Record, Tally, require_columns
from minillm.data.split import split_examples, text_hash
from minillm.tokenizers.chat_template import ChatTemplate

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


class Prompt(NamedTuple):
    """One record. The split keeps the examples of a group together."""

    text: str
    """The text; of a conversation, the last message."""
    pair: str
    """Always "": a prompt is a single text."""
    where: str
    """Names the record in an error message."""
    group: str
    fields: Mapping[str, Any]
    """All fields of the record."""
    messages: tuple[dict[str, str], ...] = ()
    """Those of a conversation; empty for a text."""


class PromptIds(NamedTuple):
    """One tokenized prompt."""

    ids: np.ndarray
    """Begins with the tokens that the tokenizer puts before every text."""
    text: str
    where: str
    fields: Mapping[str, Any]


class Prompts(MemoryRows[PromptIds]):
    """The tokenized prompts of one split, in memory."""

    def __init__(self, examples: list[Prompt], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        """ValueError, naming the prompt, if it is a conversation and the tokenizer has no chat template for it."""
        before = np.array(tokenizer.prefix_ids, np.int64)
        template = ChatTemplate(tokenizer) if any(example.messages for example in examples) else None
        self.rows: list[PromptIds] = []
        for example in examples:
            if template is None or not example.messages:
                ids = np.concatenate((before, tokenizer.encode(example.text)))
            else:
                try:
                    ids = np.array(template.prompt_ids(example.messages))
                except ValueError as error:
                    raise ValueError(f"{example.where}: {error}") from None
            self.rows.append(PromptIds(ids.astype(np.int64), example.text, example.where, example.fields))
        self.num_tokens = sum(len(row.ids) for row in self.rows)
        self.notes = notes


def prepare_prompt_data(
    config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False
) -> Corpus:
    """Like `corpus.prepare`, for prompts, which are held in memory."""
    return prepare_examples(
        config,
        tokenizer,
        read=lambda source: read_source(source, config),
        split=lambda examples: split_examples(examples, config.validation_fraction, lambda _: ""),
        tokenize=Prompts,
    )


def read_prompt_data(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> Prompts:
    """All prompts of `source`, not split, to evaluate a trained model on."""
    read = read_source(source, config)
    return Prompts(read.content, tokenizer, read.notes)


def read_source(source: str, config: DataConfig) -> Source:
    """The prompts of a source in the order of their hashes."""
    tally = Tally("prompts")
    examples = list(islice(_examples(source, config, tally), config.max_documents))
    if not examples:
        raise ValueError(f"{source} has no prompts: add records with the field {config.prompt_field!r}")
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()))
    examples.sort(key=lambda example: (text_hash(example.text), json.dumps(example.fields, default=str)))
    return Source(examples, sources.fingerprint(source, f"prompts {config.prompt_field}"), notes)


def _examples(source: str, config: DataConfig, tally: Tally) -> Iterator[Prompt]:
    if source.startswith(sources.BUILTIN):
        raise ValueError(f"{source} has no prompts: give records with the field {config.prompt_field!r} (data.source)")
    for record in sources.read_records(source, {}):  # all fields
        require_columns(record.fields, {"data.prompt_field": config.prompt_field}, record.where)
        messages = _messages(record, config.prompt_field)
        text = messages[-1]["content"] if messages else record.text(config.prompt_field)
        if tally.keeps(prompt=text):
            yield Prompt(text, "", record.where, text, record.fields, messages)


def _messages(record: Record, field: str) -> tuple[dict[str, str], ...]:
    """The messages of a conversation; () for a text."""
    value = record.fields[field]
    if not isinstance(value, list):
        return ()
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(
                f"field {field!r} of {record.where} must be a text or a list of messages such as "
                f'{{"role": "user", "content": "12+34?"}}, not {json.dumps(message, default=str)[:80]}'
            )
    return tuple({"role": message["role"], "content": message["content"]} for message in value)
