"""Words with tags: named entities, parts of speech, or other labels of words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, prepare_examples
from minillm.data.datasets.rows import MemoryRows
from minillm.data.sources.conll import Scheme, Sentence, check_tags, read_conll, scheme_of, to_bio
from minillm.data.sources.records import Record, Tally, ending
from minillm.data.sources.token_classes import NAME as TOKEN_CLASSES
from minillm.data.sources.token_classes import tagged_lines
from minillm.data.split import split_examples, text_hash

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

WORD = re.compile(r"\w+|[^\w\s]")
"""A word of a plain text."""


class Tagged(NamedTuple):
    """One example. The first two fields are texts, as `prepare_examples` requires."""

    text: str
    rest: str
    """Always ""."""
    spans: tuple[tuple[int, int], ...]
    """[start, stop) characters of each word in the text."""
    tags: tuple[str, ...]
    where: str
    group: str

    @property
    def words(self) -> list[str]:
        return [self.text[start:stop] for start, stop in self.spans]


class TaggedIds(NamedTuple):
    """One tokenized example. A word that follows white space is tokenized with a space before it."""

    ids: tuple[np.ndarray, ...]
    """The ids of each word; a word may have none, for example if the tokenizer drops its characters."""
    tags: tuple[str, ...]
    where: str


class TaggedTokens(MemoryRows[TaggedIds]):
    """The tokenized examples of one split, in memory."""

    def __init__(self, examples: Sequence[Tagged], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        spelled = [_spelled(example) for example in examples]
        distinct = list(dict.fromkeys(word for words in spelled for word in words))
        ids = dict(zip(distinct, tokenizer.encode_batch(distinct), strict=True))
        self.rows = [
            TaggedIds(tuple(ids[word] for word in words), example.tags, example.where)
            for words, example in zip(spelled, examples, strict=True)
        ]
        self.num_tokens = sum(len(word) for row in self.rows for word in row.ids)
        self.notes = notes


def prepare_tagged(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for words with tags, which are held in memory."""
    return prepare_examples(
        config,
        tokenizer,
        read=lambda source: read_source(source, config),
        split=lambda examples: split_examples(examples, config.validation_fraction, lambda _: ""),
        tokenize=TaggedTokens,
    )


def read_tagged(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> TaggedTokens:
    """All examples of `source`, not split, to evaluate a trained model on."""
    read = read_source(source, config)
    return TaggedTokens(read.content, tokenizer, read.notes)


def read_inputs(texts: Sequence[str], source: str | None, config: DataConfig) -> list[Tagged]:
    """Examples without tags: the words of `texts`, or those of `source`, whose words may also be a text."""
    if source is None:
        return [_of_text(text, f"text {n}") for n, text in enumerate(texts, 1)]
    sentences = _sentences(source, config, tagged=False)
    return [s if isinstance(s, Tagged) else _of_words(s) for s in islice(sentences, config.max_documents)]


def read_source(source: str, config: DataConfig) -> Source:
    """The examples of a source in the order of their hashes, with checked tags in BIO, BIOES or no scheme."""
    tally = Tally("sentences")
    sentences = [
        s
        for s in islice(_sentences(source, config, tagged=True), config.max_documents)
        if tally.keeps(sentence=" ".join(s[0]))
    ]
    if not sentences:
        raise ValueError(f"{source} has no sentences with words and tags: add some")
    scheme: Scheme = config.tag_scheme
    if scheme == "auto":
        scheme = scheme_of(sorted({tag for sentence in sentences for tag in sentence.tags}))
    examples = []
    for sentence in sentences:
        if scheme == "iob1" and isinstance(sentence, Sentence):
            sentence = sentence._replace(tags=to_bio(sentence.tags))
        if isinstance(sentence, Sentence):
            check_tags(sentence, scheme)
            sentence = _of_words(sentence)
        examples.append(sentence)
    examples.sort(key=lambda one: (text_hash(one.text), one.text, one.tags, one.where))
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in tally.notes()))
    return Source(examples, _fingerprint(source, config), notes)


def _sentences(source: str, config: DataConfig, *, tagged: bool) -> Iterator[Sentence | Tagged]:
    if source == TOKEN_CLASSES:
        for line in tagged_lines():
            yield Tagged(line.text, "", line.spans, line.tags, source, line.group)
        return
    if sources.has_fields(source):
        columns = {"data.words_field": config.words_field}
        columns |= {"data.tags_field": config.tags_field} if tagged else {}
        for record in sources.read_records(source, columns):
            yield _of_record(record, config, tagged=tagged)
        return
    for path in sources.find_files(source)[0]:
        assert ending(path) is None
        yield from read_conll(path, int(config.tags_field) if config.tags_field.isdecimal() else None)


def _of_record(record: Record, config: DataConfig, *, tagged: bool) -> Sentence | Tagged:
    """The words and tags of a record; without tags, the words may be a text. ValueError if their numbers differ."""
    words = record.fields[config.words_field]
    if not tagged and isinstance(words, str):
        return _of_text(record.text(config.words_field), record.where)
    words = _strings(words, config.words_field, record)
    if not tagged:
        return Sentence(words, ("O",) * len(words), record.where, "")
    tags = _strings(record.fields[config.tags_field], config.tags_field, record)
    if len(words) != len(tags):
        raise ValueError(f"{record.where} has {len(words)} words, but {len(tags)} tags: each word needs one tag")
    return Sentence(words, tags, record.where, "")


def _strings(value: object, field: str, record: Record) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int) for item in value):
        raise ValueError(f'field {field!r} of {record.where} is not a list of texts: write it as ["a", "b"]')
    return tuple(map(str, value))


def _of_words(sentence: Sentence) -> Tagged:
    """The words with a space between them."""
    stops = np.cumsum([len(word) + 1 for word in sentence.words]) - 1
    spans = [(int(stop) - len(word), int(stop)) for word, stop in zip(sentence.words, stops, strict=True)]
    text = " ".join(sentence.words)
    return Tagged(text, "", tuple(spans), sentence.tags, sentence.where, sentence.group or text)


def _of_text(text: str, where: str) -> Tagged:
    spans = tuple(match.span() for match in WORD.finditer(text))
    return Tagged(text, "", spans, ("O",) * len(spans), where, text)


def _spelled(example: Tagged) -> list[str]:
    """Each word, with a space before it if it follows white space."""
    return [
        (" " if start and example.text[start - 1].isspace() else "") + example.text[start:stop]
        for start, stop in example.spans
    ]


def _fingerprint(source: str, config: DataConfig) -> str:
    if source == TOKEN_CLASSES:
        return cache.key("tagged", source, sources.fingerprint(f"{sources.BUILTIN}python-stdlib"))
    fields = f"{config.words_field} {config.tags_field} {config.tag_scheme}"
    return hashlib.sha256(sources.fingerprint(source, fields).encode()).hexdigest()
