"""A text corpus: token ids on disk, split into training and validation data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.text import Section, byte_bar, read_text
from minillm.data.loader import Tokens
from minillm.data.split import split_text, text_hash

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

TokenizerBuilder = Callable[[Iterable[str], Iterable[str]], "Tokenizer"]
"""Makes a tokenizer from the training texts and the validation texts. BPE learns from the training texts alone; a
character vocabulary covers both."""


class Source(NamedTuple):
    """The content of a source."""

    content: Any
    """A Section of text, or a list of examples."""
    fingerprint: str
    """Hash of the content."""
    notes: tuple[str, ...] = ()
    """What was left out and why, one line each."""


@dataclass(frozen=True)
class SplitInfo:
    """The size of a split."""

    documents: int
    """Documents, or examples."""
    bytes: int
    """UTF-8 bytes of the text."""
    tokens: int
    """Including one EOS for each document."""


@dataclass(frozen=True)
class CorpusInfo:
    """The origin and the size of a corpus."""

    source: str
    fingerprint: str
    """Hash of the content of the source, and of the validation source if there is one."""
    validation_source: str | None
    """None: the validation data was split off the source."""
    train: SplitInfo
    validation: SplitInfo
    unit: str = ""
    """What the examples are, if not text."""

    def describe(self) -> str:
        """One line with the sizes of both splits."""
        train, validation = self.train, self.validation
        if self.unit:
            sizes = f"{train.documents:,} {self.unit} to train on, {validation.documents:,} to validate on"
            return f"data: {self.source}, {sizes}"
        return (
            f"text: {self.source}, {size(train.bytes)} in {train.tokens:,} tokens to train on "
            f"({train.bytes / train.tokens:.2f} bytes per token), {size(validation.bytes)} to validate on"
        )


@dataclass(frozen=True)
class Corpus:
    """The data of a run."""

    train: Any
    """Tokens, or the equivalent of another kind of data set."""
    validation: Any
    tokenizer: Tokenizer
    info: CorpusInfo
    notes: tuple[str, ...] = ()
    """What was left out of the sources, and how many validation documents are also in the training text."""

    def validation_text_bytes(self) -> bytes:
        """The validation text in UTF-8, for example to compare bits per byte with a compressor."""
        return self.tokenizer.decode_bytes(self.validation.slice(0, self.validation.num_tokens))

    def require(self, seq_len: int) -> None:
        """ValueError if there are fewer than two training examples of `seq_len` tokens."""
        split_off = self.validation.num_tokens if self.info.validation_source is None else 0
        tokens = self.train.num_tokens + split_off
        if tokens < 2 * seq_len:
            raise ValueError(
                f"{self.info.source} has {tokens} tokens, but at least {2 * seq_len} are needed, two windows of "
                f"{seq_len}: add text, or set data.seq_len to at most {max(1, tokens // 2)}"
            )


def prepare(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """The corpus that `config` describes; tokens are cached.

    Args:
        config: if seq_len is set, the corpus must have at least two windows of that length.
        tokenizer: a tokenizer, or a function that makes one; its texts are pieces of documents and can be read once.
        progress: show progress bars on stderr if it is a terminal.
    """
    folder = cache.cache_folder(config.cache)
    require_field_read(config)

    def read(source: str) -> Source:
        text = read_text(source, config, folder, progress=progress)
        return Source(text.whole(), text.fingerprint, text.notes)

    def split(section: Section) -> tuple[Section, Section]:
        return split_text(section.text, config.split, config.validation_fraction)

    parts, fingerprint, notes = divide(config, read, split, lambda section: section.text.documents["hash"], "documents")
    if callable(tokenizer):
        tokenizer = tokenizer(parts["train"].texts(), parts["validation"].texts())
    tokens, sizes = _tokenized(parts, tokenizer, folder, progress)
    info = CorpusInfo(config.source, fingerprint, config.validation, sizes["train"], sizes["validation"])
    corpus = Corpus(**tokens, tokenizer=tokenizer, info=info, notes=notes)
    if config.seq_len is not None:
        corpus.require(config.seq_len)
    return corpus


def read_tokens(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> Tokens:
    """All of `source`, not split, to evaluate a trained model on. `config.source` is ignored."""
    folder = cache.cache_folder(config.cache)
    text = read_text(source, config, folder, progress=progress)
    tokens = _tokenized({"all": text.whole()}, tokenizer, folder, progress)[0]["all"]
    tokens.notes = text.notes
    return tokens


def divide(
    config: DataConfig,
    read: Callable[[str], Source],
    split: Callable[[Any], tuple[Any, Any]],
    hashes: Callable[[Any], np.ndarray],
    what: str,
) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The contents for "train" and for "validation", from two sources or one that is split; fingerprint and notes.

    Args:
        read, split: functions that read a source and split a content.
        hashes: function that returns a hash for each document or example; a note counts those in both splits.
        what: "documents" or "examples".
    """
    own = read(config.source)
    if config.validation is None:
        return dict(zip(("train", "validation"), split(own.content), strict=True)), own.fingerprint, own.notes
    held_out = read(config.validation)
    if held_out.fingerprint == own.fingerprint:
        raise ValueError(f"data.validation {config.validation} is the training text itself: give another text")
    shared = np.isin(hashes(held_out.content), hashes(own.content))
    line = f"{shared.sum():,} of {len(shared):,} validation {what} ({shared.mean():.0%}) are in the training text too"
    notes = own.notes + held_out.notes + ((line,) if shared.any() else ())
    key = cache.key(own.fingerprint, held_out.fingerprint)
    return {"train": own.content, "validation": held_out.content}, key, notes


def prepare_examples(
    config: DataConfig,
    tokenizer: Tokenizer | TokenizerBuilder,
    read: Callable[[str], Source],
    split: Callable[[list[Any]], tuple[list[Any], list[Any]]],
    tokenize: Callable[[list[Any], Tokenizer], Any],
) -> Corpus:
    """Like `prepare`, for examples whose first two fields are texts, which are held in memory."""
    parts, fingerprint, notes = divide(config, read, split, _hashes, "examples")
    if callable(tokenizer):
        tokenizer = tokenizer(texts(parts["train"]), texts(parts["validation"]))
    tokens = {name: tokenize(part, tokenizer) for name, part in parts.items()}
    sizes = {
        name: SplitInfo(len(part), sum(len(text.encode("utf-8")) for text in texts(part)), tokens[name].num_tokens)
        for name, part in parts.items()
    }
    info = CorpusInfo(config.source, fingerprint, config.validation, sizes["train"], sizes["validation"])
    return Corpus(**tokens, tokenizer=tokenizer, info=info, notes=notes)


def size(num_bytes: int) -> str:
    """A number of bytes in a readable unit."""
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes < 100_000 else f"{num_bytes / 1e6:.2f} MB"


def texts(examples: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """The first two fields of each example."""
    return (text for example in examples for text in example[:2])


def _hashes(examples: list[tuple[str, ...]]) -> np.ndarray:
    return np.array([text_hash(json.dumps(example[:2])) for example in examples], np.uint64)


def require_field_read(config: DataConfig) -> None:
    """ValueError if data.field is set but no source has fields."""
    read = [config.source, *([config.validation] if config.validation else [])]
    if config.field != DataConfig.field and not any(map(sources.has_fields, read)):
        raise ValueError(f"data.field {config.field} has no effect: {config.source} has no fields; leave it out")


def _tokenized(
    parts: dict[str, Section], tokenizer: Tokenizer, folder: Path, progress: bool
) -> tuple[dict[str, Tokens], dict[str, SplitInfo]]:
    """The tokens of each section, cached, and their sizes."""
    content = [(p.text.fingerprint, hashlib.sha256(p.spans.tobytes()).hexdigest()) for p in parts.values()]
    home = folder / f"tokens-{cache.key(list(parts), content, tokenizer.hash)}"
    facts = cache.entry(home, lambda temporary: _tokenize(parts, tokenizer, temporary, progress))
    arrays = {name: np.memmap(home / f"{name}.bin", dtype_of(tokenizer), "r") for name in parts}
    tokens = {name: Tokens(array, tokenizer.eos_id) for name, array in arrays.items()}
    return tokens, {name: SplitInfo(**facts[name]) for name in parts}


def _tokenize(parts: dict[str, Section], tokenizer: Tokenizer, folder: Path, progress: bool) -> dict[str, Any]:
    total = sum(part.num_bytes for part in parts.values())
    with byte_bar("tokenizing", progress, total) as bar:
        return {name: _write(part, tokenizer, folder / f"{name}.bin", bar) for name, part in parts.items()}


def _write(section: Section, tokenizer: Tokenizer, path: Path, bar: tqdm) -> dict[str, int]:
    dtype, eos = dtype_of(tokenizer), np.array([tokenizer.eos_id], dtype_of(tokenizer))
    with path.open("wb") as file:
        for text, last in section.pieces():
            file.write(tokenizer.encode(text).astype(dtype).tobytes())
            if last:
                file.write(eos.tobytes())
            bar.update(len(text))
        tokens = file.tell() // dtype.itemsize
    return {"documents": len(section.spans), "bytes": section.num_bytes, "tokens": tokens}


def dtype_of(tokenizer: Tokenizer) -> np.dtype:
    """The smallest unsigned type for the ids."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
