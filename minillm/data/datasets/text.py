"""A source's text in the cache, from where it is split and tokenized in bounded memory."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.sources.files import CHUNK_BYTES, Piece
from minillm.data.sources.records import Tally

READING = 2
"""Part of the cache's keys; increase it when the same source gives different text or notes."""

DOCUMENTS = np.dtype([("end", "<i8"), ("chars", "<i8"), ("hash", "<u8")])
"""For each document: the offset of its end in bytes, its length in characters, a 64-bit hash."""

_BEFORE_SPACE = re.compile(r"(?s:.*)[^\W_](?=\s)")


@dataclass(frozen=True)
class Text:
    """All documents of a source, concatenated in one UTF-8 file."""

    path: Path
    documents: np.ndarray
    """(D,) of DOCUMENTS."""
    fingerprint: str
    """Hash of the source's content."""
    notes: tuple[str, ...] = ()
    """What was left out of the source and why, one line each."""

    @property
    def spans(self) -> np.ndarray:
        """(D, 2) [start, stop) of each document in bytes."""
        ends = self.documents["end"]
        return np.stack((np.concatenate(([0], ends[:-1])), ends), axis=1)

    def whole(self) -> Section:
        return Section(self, self.spans)


@dataclass(frozen=True)
class Section:
    """Some of a text's documents; a split may have cut the first or the last one."""

    text: Text
    spans: np.ndarray
    """(N, 2) [start, stop) of each document in bytes."""

    @property
    def num_bytes(self) -> int:
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def pieces(self) -> Iterator[Piece]:
        """The documents, long ones in pieces.

        A piece ends between a letter or digit and white space, if it contains such a position. Byte, character and the
        known BPE tokenizers never merge across it, so the pieces' tokens are those of the whole document.
        """
        with self.text.path.open("rb") as file:
            for start, stop in self.spans.tolist():
                file.seek(start)
                pending, decoder = "", codecs.getincrementaldecoder("utf-8")()
                for position in range(start, stop, CHUNK_BYTES):
                    size = min(CHUNK_BYTES, stop - position)
                    pending += decoder.decode(file.read(size))
                    if position + size < stop:
                        cut = _cut(pending)
                        yield Piece(pending[:cut], last=False)
                        pending = pending[cut:]
                yield Piece(pending, last=True)

    def texts(self) -> Iterator[str]:
        """The text of the pieces."""
        return (piece.text for piece in self.pieces())


def read_text(source: str, config: DataConfig, folder: Path, *, progress: bool = False) -> Text:
    """The text of a source, cached; ValueError if it is empty."""
    limit = config.max_documents
    fingerprint = sources.fingerprint(source, config.field)

    def make(temporary: Path) -> dict[str, Any]:
        pieces, tally = sources.read_pieces(source, config.field), Tally("documents")
        documents = _write(pieces, temporary / "text.bin", tally, limit=limit, progress=progress)
        if not documents:
            raise ValueError(f"{source} has no text: give a source with at least one document that is not empty")
        np.save(temporary / "documents.npy", np.array(documents, DOCUMENTS))
        return {"source": source, "field": config.field, "fingerprint": fingerprint, "notes": tally.notes()}

    home = folder / f"text-{cache.key(fingerprint, limit, READING)}"
    facts = cache.entry(home, make)
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in facts["notes"]))
    return Text(home / "text.bin", np.load(home / "documents.npy"), fingerprint, notes)


def _write(
    pieces: Iterable[Piece], path: Path, tally: Tally, *, limit: int | None, progress: bool
) -> list[tuple[int, int, int]]:
    """Concatenate the documents that are not empty into one file; returns the values of DOCUMENTS."""
    documents: list[tuple[int, int, int]] = []
    end, chars, digest = 0, 0, hashlib.blake2b(digest_size=8)
    with path.open("wb") as file, byte_bar("reading", progress) as bar:
        for text, last in pieces:
            data = text.encode("utf-8")
            file.write(data)
            digest.update(data)
            end, chars = end + len(data), chars + len(text)
            bar.update(len(data))
            if not last:
                continue
            tally.total += 1
            if chars:
                documents.append((end, chars, int.from_bytes(digest.digest(), "little")))
            else:
                tally.reasons["empty"] += 1
            chars, digest = 0, hashlib.blake2b(digest_size=8)
            if len(documents) == limit:
                break
    return documents


def byte_bar(what: str, progress: bool, total: int | None = None) -> tqdm:
    """A progress bar in bytes, on stderr if it is a terminal and `progress` is true."""
    return tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=None if progress else True, leave=False)


def _cut(text: str) -> int:
    """Where a piece can end without changing the tokens; else after the last line break; else at the end."""
    match = _BEFORE_SPACE.match(text)
    return match.end() if match else text.rfind("\n") + 1 or len(text)
