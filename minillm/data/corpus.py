"""A source's text as token ids on disk, split into training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from minillm.data import cache
from minillm.data.config import DataConfig
from minillm.data.split import split_text
from minillm.data.text import Section, read_text

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

TokenizerBuilder = Callable[[Iterable[str], Iterable[str]], "Tokenizer"]
"""Makes a tokenizer of the training texts and the validation texts. What is learned must come from the training texts
alone (BPE merges); what only has to be complete may look at both (a character vocabulary)."""


class Tokens:
    """The ids of one split, memory-mapped: all documents, each followed by EOS.

    Args:
        ids: (N,) uint16 or uint32.
        eos_id: the id after every document. A document that the split cut in two is two documents here.
    """

    def __init__(self, ids: np.ndarray, eos_id: int):
        self._ids = np.asarray(ids)  # a plain view of the map: slicing a memmap object costs ten times as much
        self.eos_id = eos_id

    @property
    def num_tokens(self) -> int:
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
    """One EOS for each document included."""


@dataclass(frozen=True)
class CorpusInfo:
    """Where a corpus comes from and how large it is."""

    source: str
    fingerprint: str
    """Hash of the content of the source, and of the validation source where there is one."""
    validation_source: str | None
    """None: validation was split off."""
    train: SplitInfo
    validation: SplitInfo


@dataclass(frozen=True)
class Corpus:
    """What a run trains and validates on."""

    train: Tokens
    validation: Tokens
    tokenizer: Tokenizer
    info: CorpusInfo

    def validation_text_bytes(self) -> bytes:
        """The validation text in UTF-8, documents one after another, to compare with what a compressor makes of it."""
        return self.tokenizer.decode_bytes(self.validation.slice(0, self.validation.num_tokens))

    def require(self, seq_len: int) -> None:
        """Refuse to train on less than two context windows' worth of text.

        Raises:
            ValueError: there is less; says how many tokens are needed and how many there are.
        """
        split_off = self.validation.num_tokens if self.info.validation_source is None else 0
        tokens = self.train.num_tokens + split_off
        if tokens < 2 * seq_len:
            raise ValueError(
                f"{self.info.source} has {tokens} tokens, but at least {2 * seq_len} are needed, two windows of "
                f"{seq_len}: give more text or set data.seq_len to {max(1, tokens // 2)} or less"
            )


def prepare(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """The corpus that `config` describes, tokenized at the first call and found in the cache later.

    Args:
        config: source, split and cache folder. Where seq_len is set, the corpus is checked to hold two windows.
        tokenizer: a finished one, or what makes one of the training and the validation texts; these come in pieces
            and can be gone through once.
        progress: show bars on standard error.

    Raises:
        FileNotFoundError, ValueError, OSError: the source or a setting is at fault; one line that names it.
    """
    folder = cache.cache_folder(config.cache)
    text = read_text(config.source, config, folder, progress=progress)
    fingerprint = text.fingerprint
    if config.validation is None:
        train, validation = split_text(text, config.split, config.validation_fraction)
    else:
        own = read_text(config.validation, config, folder, progress=progress)
        if own.fingerprint == text.fingerprint:
            raise ValueError(f"data.validation {config.validation} is the training text itself: give another text")
        train, validation = text.whole(), own.whole()
        fingerprint = cache.key(text.fingerprint, own.fingerprint)
    if callable(tokenizer):
        tokenizer = tokenizer(train.texts(), validation.texts())
    parts = {"train": train, "validation": validation}
    tokens, sizes = _tokenized(parts, tokenizer, folder, progress)
    info = CorpusInfo(config.source, fingerprint, config.validation, sizes["train"], sizes["validation"])
    corpus = Corpus(tokens["train"], tokens["validation"], tokenizer, info)
    if config.seq_len is not None:
        corpus.require(config.seq_len)
    return corpus


def read_tokens(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> Tokens:
    """All of `source`, nothing split off: a text to evaluate a finished model on.

    Args:
        source: any source; config.source is not looked at.
        config: field, max_documents and cache folder.
        tokenizer: the model's.
        progress: show bars on standard error.

    Raises:
        FileNotFoundError, ValueError, OSError: as `prepare`.
    """
    folder = cache.cache_folder(config.cache)
    whole = read_text(source, config, folder, progress=progress).whole()
    return _tokenized({"all": whole}, tokenizer, folder, progress)[0]["all"]


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
    """Each section into a file of its own."""
    total = sum(part.num_bytes for part in parts.values())
    with tqdm(desc="tokenizing", total=total, unit="B", unit_scale=True, disable=not progress, leave=False) as bar:
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
