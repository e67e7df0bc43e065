"""Preferences: two answers to a prompt, of which people, or a rule, prefer one.

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}                texts; `prompt` may be missing
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "chosen": [{"role": "assistant", "content": "4"}], ...}
    {"chosen": [user and assistant messages], "rejected": [the same but for the last message]}

A field `margin`, if named by data.margin_field, says by how much the first answer is better.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
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

Messages = tuple[tuple[str, str], ...]
"""(role, content) of each message of a conversation."""


class Preference(NamedTuple):
    """One pair of answers. The split keeps the examples of a group together."""

    asked: str
    """The text of the prompt."""
    answered: str
    """The texts of both answers."""
    prompt: str | Messages
    chosen: str
    rejected: str
    margin: float
    where: str
    """Names the pair in an error message."""
    group: str


class Text(NamedTuple):
    """A text to score."""

    text: str
    where: str


Scored = Preference | Text


class PreferenceIds(NamedTuple):
    """One tokenized pair. The prompt is tokenized apart from the answers, so it is the same for both."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    margin: float
    framed: bool
    """Whether the special tokens at the start and at the end are included, as in conversations."""
    where: str
    asked: str = ""
    """The text of the prompt; of a conversation, its last message of the user."""
    reference: tuple[float, float] = (math.nan, math.nan)
    """What a reference model says about both answers, for objectives that compare with one."""


class PreferenceTokens(MemoryRows[PreferenceIds]):
    """The tokenized pairs of one split, in memory."""

    def __init__(self, examples: list[Preference], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        """ValueError, naming the pair, if it is a conversation that the chat template rejects."""
        self.rows = [_encode(example, tokenizer) for example in examples]
        self.num_tokens = sum(2 * len(row.prompt) + len(row.chosen) + len(row.rejected) for row in self.rows)
        self.notes = notes

    def with_reference(self, numbers: np.ndarray) -> PreferenceTokens:
        """A copy whose rows have these numbers (N, 2) of a reference model."""
        changed = copy.copy(self)
        pairs = zip(self.rows, numbers.tolist(), strict=True)
        changed.rows = [row._replace(reference=(first, second)) for row, (first, second) in pairs]
        return changed

    @property
    def fingerprint(self) -> str:
        """Hash of the ids of all pairs."""
        digest = hashlib.sha256()
        for row in self.rows:
            for ids in (row.prompt, row.chosen, row.rejected):
                digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
        return digest.hexdigest()


def prepare_preferences(
    config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False
) -> Corpus:
    """Like `corpus.prepare`, for preferences, which are held in memory."""
    return prepare_examples(
        config,
        tokenizer,
        read=lambda source: read_source(source, config),
        split=lambda examples: split_examples(examples, config.validation_fraction, lambda _: ""),
        tokenize=PreferenceTokens,
    )


def read_preferences(
    source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False
) -> PreferenceTokens:
    """All pairs of `source`, not split, to evaluate a trained model on."""
    read = read_source(source, config)
    return PreferenceTokens(read.content, tokenizer, read.notes)


def read_scored(texts: Sequence[str], source: str | None, config: DataConfig) -> list[Scored]:
    """`texts`; or those of `source`: the field data.field of each record, or both answers if it is a pair."""
    if source is None:
        return [Text(text, f"text {number}") for number, text in enumerate(texts, 1)]
    found: list[Scored] = []
    for record in islice(sources.read_records(source, {}), config.max_documents):
        if config.chosen_field in record.fields and config.rejected_field in record.fields:
            found.append(_preference(record, config, 0.0))
        else:
            require_columns(record.fields, {"data.field": config.field}, record.where)
            found.append(Text(record.text(config.field), record.where))
    return found


def _encode(example: Preference, tokenizer: Tokenizer) -> PreferenceIds:
    if isinstance(example.prompt, str):
        texts = (example.prompt, example.chosen, example.rejected)
        prompt, chosen, rejected = (ids.astype(np.int64) for ids in tokenizer.encode_batch(texts))
        return PreferenceIds(prompt, chosen, rejected, example.margin, False, example.where, example.prompt)
    try:
        template = ChatTemplate(tokenizer)
        dialogue = [{"role": role, "content": content} for role, content in example.prompt]
        found = [
            template.encode([*dialogue, {"role": "assistant", "content": answer}])
            for answer in (example.chosen, example.rejected)
        ]
    except ValueError as error:
        raise ValueError(f"{example.where}: {error}") from None
    start = found[0].turns[-1][0]
    chosen, rejected = (np.asarray(c.ids[start : c.turns[-1][1]], np.int64) for c in found)
    prompt, asked = np.asarray(found[0].ids[:start], np.int64), example.prompt[-1][1]
    return PreferenceIds(prompt, chosen, rejected, example.margin, True, example.where, asked)


def read_source(source: str, config: DataConfig) -> Source:
    """The pairs of a source in the order of their hashes."""
    tally = Tally("pairs")
    examples = list(islice(_examples(source, config, tally), config.max_documents))
    if not examples:
        raise ValueError(f"{source} has no pairs of answers: add records with prompt, chosen and rejected")
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()))
    examples.sort(key=lambda example: (text_hash(json.dumps(example[:2])), example.where))
    fields = f"{config.prompt_field} {config.chosen_field} {config.rejected_field} {config.margin_field}"
    return Source(examples, hashlib.sha256(sources.fingerprint(source, fields).encode()).hexdigest(), notes)


def _examples(source: str, config: DataConfig, tally: Tally) -> Iterator[Preference]:
    if source.startswith(sources.BUILTIN):
        raise ValueError(f"{source} has no preferences: give a file of them, such as my.jsonl (data.source)")
    columns = {"data.chosen_field": config.chosen_field, "data.rejected_field": config.rejected_field}
    columns |= {"data.margin_field": config.margin_field} if config.margin_field else {}
    for record in sources.read_records(source, {}):
        require_columns(record.fields, columns, record.where)
        pair = _preference(record, config, _margin(record, config.margin_field))
        same = pair.chosen == pair.rejected
        tally.reasons.update(["equal answers"] if same and pair.chosen else [])
        if tally.keeps(chosen=pair.chosen, rejected=pair.rejected) and not same:
            yield pair


def _preference(record: Record, config: DataConfig, margin: float) -> Preference:
    prompt, chosen, rejected = _texts(record, config)
    asked = prompt if isinstance(prompt, str) else "\n".join(content for _, content in prompt)
    return Preference(asked, f"{chosen}\n{rejected}", prompt, chosen, rejected, margin, record.where, asked)


def _texts(record: Record, config: DataConfig) -> tuple[str | Messages, str, str]:
    """Prompt and both answers; ValueError if they are neither texts nor conversations that end alike."""
    given = record.fields.get(config.prompt_field)
    answers = [record.fields[field] for field in (config.chosen_field, config.rejected_field)]
    if not any(isinstance(value, list) for value in (given, *answers)):
        prompt = "" if given is None else record.text(config.prompt_field)
        return prompt, record.text(config.chosen_field), record.text(config.rejected_field)
    prompt = () if given is None else _messages(given, f"field {config.prompt_field!r} of {record.where}", "user")
    sides = [
        _messages(answer, f"field {field!r} of {record.where}", "assistant")
        for field, answer in zip((config.chosen_field, config.rejected_field), answers, strict=True)
    ]
    if sides[0][:-1] != sides[1][:-1]:
        raise ValueError(f"{record.where}: the conversations may differ only in the last answer; correct it")
    prompt = (*prompt, *sides[0][:-1])
    if not prompt or prompt[-1][0] != "user" or any(side[-1][0] != "assistant" for side in sides):
        raise ValueError(f"{record.where}: each user message must be followed by an answer of the assistant")
    return prompt, sides[0][-1][1], sides[1][-1][1]


def _messages(value: Any, where: str, role: str) -> Messages:
    """The messages of a list of objects; a text is one message of `role`."""
    if isinstance(value, str):
        return ((role, value),)
    if not isinstance(value, list) or not value:
        raise ValueError(f'{where} is {type(value).__name__}; write a text or a list of {{"role": …, "content": …}}')
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise ValueError(f'{where}: each message must be an object with the texts "role" and "content"')
    return tuple((message["role"], message["content"]) for message in value)


def _margin(record: Record, field: str | None) -> float:
    if field is None:
        return 0.0
    try:
        margin = float(record.fields[field])
    except (TypeError, ValueError):
        margin = math.nan
    if not math.isfinite(margin):
        raise ValueError(f"field {field!r} of {record.where} is {record.fields[field]!r}, not a number: correct it")
    return margin
