"""A text corpus: a source's text as token ids on disk, split into training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.text import Section, byte_bar, read_text
from minillm.data.split import split_text

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

TokenizerBuilder = Callable[[Iterable[str], Iterable[str]], "Tokenizer"]
"""Makes a tokenizer from the training texts and the validation texts. BPE merges must be learned from the training
texts alone; a character vocabulary covers both."""


class Tokens:
    """The ids of one split, memory-mapped: all documents, each followed by EOS.

    Args:
        ids: (N,) uint16 or uint32.
        eos_id: the id after every document. A document that the split cut in two is two documents here.
        notes: what of the source was left out and why, one line each.
    """

    def __init__(self, ids: np.ndarray, eos_id: int, notes: tuple[str, ...] = ()):
        self._ids = np.asarray(ids)  # a plain view of the map: slicing a memmap object costs ten times as much
        self.eos_id, self.notes = eos_id, notes

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, EOS included."""
        return len(self._ids)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) ids, a read-only view."""
        return self._ids[start:stop]

    @property
    def document_starts(self) -> np.ndarray:
        """(D,) index of each document's first token; the document ends before the EOS before the next."""
        ends = np.flatnonzero(self._ids == self.eos_id)
        return np.concatenate(([0], ends[:-1] + 1))


@dataclass(frozen=True)
class SplitInfo:
    """The size of a split."""

    documents: int
    bytes: int
    """UTF-8 bytes of the text."""
    tokens: int
    """Including one EOS for each document."""


@dataclass(frozen=True)
class CorpusInfo:
    """Where a corpus comes from, and its size."""

    source: str
    fingerprint: str
    """Hash of the content of the source, and of the validation source if there is one."""
    validation_source: str | None
    """None: validation was split off."""
    train: SplitInfo
    validation: SplitInfo


@dataclass(frozen=True)
class Corpus:
    """The data that a run trains and validates on."""

    train: Any
    """Tokens, or what another data set has in their place."""
    validation: Any
    tokenizer: Tokenizer
    info: CorpusInfo
    notes: tuple[str, ...] = ()
    """What of the sources was left out, and which validation documents are in the training text too; one line each."""

    def validation_text_bytes(self) -> bytes:
        """The validation text in UTF-8, documents one after another, for a compressor to be compared with."""
        return self.tokenizer.decode_bytes(self.validation.slice(0, self.validation.num_tokens))

    def require(self, seq_len: int) -> None:
        """Refuse a text of less than two training examples.

        Raises:
            ValueError: it is shorter; says how many tokens are needed and how many there are.
        """
        split_off = self.validation.num_tokens if self.info.validation_source is None else 0
        tokens = self.train.num_tokens + split_off
        if tokens < 2 * seq_len:
            raise ValueError(
                f"{self.info.source} has {tokens} tokens, but at least {2 * seq_len} are needed, two windows of "
                f"{seq_len}: add text, or set data.seq_len to {max(1, tokens // 2)} or less"
            )


def prepare(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """The corpus that `config` describes, tokenized at the first call and found in the cache later.

    Args:
        config: source, split and cache folder. If seq_len is set, the corpus must hold two windows of that length.
        tokenizer: a finished one, or a function that makes one from the training and the validation texts; these come
            in pieces and can be iterated over once.
        progress: show bars on standard error, if that is a terminal.

    Raises:
        FileNotFoundError, ValueError, OSError: the source or a setting is at fault; one line that names it.
    """
    folder = cache.cache_folder(config.cache)
    require_field_read(config)
    text = read_text(config.source, config, folder, progress=progress)
    fingerprint, notes = text.fingerprint, text.notes
    if config.validation is None:
        train, validation = split_text(text, config.split, config.validation_fraction)
    else:
        held_out = read_text(config.validation, config, folder, progress=progress)
        if held_out.fingerprint == text.fingerprint:
            raise ValueError(f"data.validation {config.validation} is the training text itself: give another text")
        train, validation = text.whole(), held_out.whole()
        fingerprint = cache.key(text.fingerprint, held_out.fingerprint)
        notes += held_out.notes + overlap(text.documents["hash"], held_out.documents["hash"], "documents")
    if callable(tokenizer):
        tokenizer = tokenizer(train.texts(), validation.texts())
    parts = {"train": train, "validation": validation}
    tokens, sizes = _tokenized(parts, tokenizer, folder, progress)
    info = CorpusInfo(config.source, fingerprint, config.validation, sizes["train"], sizes["validation"])
    corpus = Corpus(tokens["train"], tokens["validation"], tokenizer, info, notes)
    if config.seq_len is not None:
        corpus.require(config.seq_len)
    return corpus


def read_tokens(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> Tokens:
    """The whole of `source`, without a split: a text to evaluate a trained model on.

    Args:
        source: any source; config.source is ignored.
        config: field, max_documents and cache folder.
        tokenizer: the model's.
        progress: show bars on standard error, if that is a terminal.

    Raises:
        FileNotFoundError, ValueError, OSError: like `prepare`.
    """
    folder = cache.cache_folder(config.cache)
    text = read_text(source, config, folder, progress=progress)
    tokens = _tokenized({"all": text.whole()}, tokenizer, folder, progress)[0]["all"]
    tokens.notes = text.notes
    return tokens


def overlap(train: np.ndarray, validation: np.ndarray, what: str) -> tuple[str, ...]:
    """A line that says which share of the validation hashes is among the training hashes; none if it is 0."""
    shared, total = int(np.isin(validation, train).sum()), len(validation)
    line = f"{shared:,} of {total:,} validation {what} ({shared / total:.0%}) are in the training text too"
    return (line,) if shared else ()


def require_field_read(config: DataConfig) -> None:
    """ValueError for a field that was chosen although no source has fields."""
    read = [config.source, *([config.validation] if config.validation else [])]
    if config.field != DataConfig.field and not any(map(sources.has_fields, read)):
        raise ValueError(f"data.field {config.field} has no effect: {config.source} has no fields; leave it out")


def _tokenized(
    parts: dict[str, Section], tokenizer: Tokenizer, folder: Path, progress: bool
) -> tuple[dict[str, Tokens], dict[str, SplitInfo]]:
    """The tokens of each section, from the cache, and their sizes."""
    content = [(p.text.fingerprint, hashlib.sha256(p.spans.tobytes()).hexdigest()) for p in parts.values()]
    home = folder / f"tokens-{cache.key(list(parts), content, tokenizer.hash)}"
    facts = cache.entry(home, lambda temporary: _tokenize(parts, tokenizer, temporary, progress))
    arrays = {name: np.memmap(home / f"{name}.bin", dtype_of(tokenizer), "r") for name in parts}
    tokens = {name: Tokens(array, tokenizer.eos_id) for name, array in arrays.items()}
    return tokens, {name: SplitInfo(**facts[name]) for name in parts}


def _tokenize(parts: dict[str, Section], tokenizer: Tokenizer, folder: Path, progress: bool) -> dict[str, Any]:
    """Write each section to its own file."""
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
    """The smallest unsigned type that holds every id."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
