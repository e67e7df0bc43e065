"""Summarizes a data source before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from minillm.data.cache import cache_folder
from minillm.data.config import DataConfig
from minillm.data.datasets.chat import ChatIds, ChatTokens, read_dialogues, with_template
from minillm.data.datasets.corpus import TokenizerBuilder, require_field_read, texts
from minillm.data.datasets.tasks import cached_examples
from minillm.data.datasets.text import read_text
from minillm.data.split import input_task

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

SAMPLE_CHARACTERS = 300


@dataclass(frozen=True)
class Description:
    source: str
    fingerprint: str
    documents: int
    """Documents, or examples."""
    bytes: int
    """UTF-8 bytes of the text."""
    characters: int
    tokens: int | None
    """Tokens of the text, not counting EOS; None without a tokenizer."""
    bytes_per_token: float | None
    sample: str
    """The start of the first document, or the first example."""
    notes: tuple[str, ...] = ()
    """What was left out and why, one line each."""
    tasks: dict[str, int] | None = None
    """Examples of each text-to-text task; None for other data."""
    figures: dict[str, object] = field(default_factory=dict)
    """Further figures of this kind of data, by name."""


def describe(
    config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder | None = None, *, progress: bool = False
) -> Description:
    """Summarize `config.source`, not split. A function as `tokenizer` gets all texts as training texts."""
    require_field_read(config)
    text = read_text(config.source, config, cache_folder(config.cache), progress=progress)
    read = text.whole().texts
    measured, sample = _measure(read, tokenizer), next(read())[:SAMPLE_CHARACTERS]
    return Description(config.source, text.fingerprint, len(text.documents), *measured, sample=sample, notes=text.notes)


def describe_tasks(
    config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder | None = None, *, progress: bool = False
) -> Description:
    """Summarize a source of text-to-text examples."""
    examples, fingerprint, notes = cached_examples(config.source, config, cache_folder(config.cache), progress)
    measured = _measure(lambda: texts(examples), tokenizer)
    sample = " -> ".join(part[:SAMPLE_CHARACTERS] for part in examples[0][:2])
    tasks = dict(Counter(map(input_task, examples)).most_common())
    return Description(config.source, fingerprint, len(examples), *measured, sample=sample, notes=notes, tasks=tasks)


def describe_chat(
    config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder | None = None, *, progress: bool = False
) -> Description:
    """Summarize a source of conversations. The sample shows special tokens, and targets in double brackets."""
    dialogues, fingerprint, notes = read_dialogues(config.source, config)
    made = tokenizer(texts(dialogues), ()) if callable(tokenizer) else tokenizer
    assert made is not None, "a chat template needs a tokenizer"
    made = with_template(made)
    found = ChatTokens(dialogues, made)
    lengths = [len(conversation.ids) for conversation in found.conversations]
    figures: dict[str, object] = {
        "answers": sum(len(conversation.turns) for conversation in found.conversations),
        "target tokens": sum(conversation.num_targets for conversation in found.conversations),
        "median tokens": int(median(lengths)),
        "longest tokens": max(lengths),
    }
    num_bytes, characters, *_ = _measure(lambda: texts(dialogues), None)
    size = num_bytes, characters, found.num_tokens, num_bytes / found.num_tokens
    shown = _marked(found.conversations[0], made)
    return Description(config.source, fingerprint, len(dialogues), *size, sample=shown, notes=notes, figures=figures)


def _marked(conversation: ChatIds, tokenizer: Tokenizer) -> str:
    """The text that the model reads, its targets in double brackets."""
    parts, last = [], 0
    for start, stop in conversation.turns:
        before, turn = conversation.ids[last:start], conversation.ids[start:stop]
        parts += [tokenizer.decode(before, keep_special=True), f"[[{tokenizer.decode(turn, keep_special=True)}]]"]
        last = stop
    return "".join([*parts, tokenizer.decode(conversation.ids[last:], keep_special=True)])


def _measure(
    read: Callable[[], Iterable[str]], tokenizer: Tokenizer | TokenizerBuilder | None
) -> tuple[int, int, int | None, float | None]:
    """Bytes, characters, tokens and bytes per token of all texts."""
    if callable(tokenizer):
        tokenizer = tokenizer(read(), ())
    num_bytes, characters, tokens = 0, 0, 0
    for text in read():
        num_bytes, characters = num_bytes + len(text.encode("utf-8")), characters + len(text)
        tokens += 0 if tokenizer is None else len(tokenizer.encode(text))
    return num_bytes, characters, None if tokenizer is None else tokens, num_bytes / tokens if tokens else None
