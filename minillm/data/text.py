"""A source's text, read once and laid down on disk: what splitting and tokenizing work on, in bounded memory."""

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
from minillm.data.files import CHUNK_BYTES, Piece

DOCUMENTS = np.dtype([("end", "<i8"), ("chars", "<i8"), ("hash", "<u8")])
"""Of each document: the byte after its last, its length in characters, 64 bits of its hash."""

_BEFORE_SPACE = re.compile(r"(?s:.*)[^\W_](?=\s)")


@dataclass(frozen=True)
class Text:
    """All documents of a source, one after another in one UTF-8 file."""

    path: Path
    documents: np.ndarray
    """(D,) of DOCUMENTS."""
    fingerprint: str
    """Hash of the source's content."""

    @property
    def spans(self) -> np.ndarray:
        """(D, 2) first byte of each document and the byte after its last."""
        ends = self.documents["end"]
        return np.stack((np.concatenate(([0], ends[:-1])), ends), axis=1)

    def whole(self) -> Section:
        return Section(self, self.spans)


@dataclass(frozen=True)
class Section:
    """Some of a text's documents, perhaps the first or the last of them in part: a split."""

    text: Text
    spans: np.ndarray
    """(N, 2) first byte of each document and the byte after its last."""

    @property
    def num_bytes(self) -> int:
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def pieces(self) -> Iterator[Piece]:
        """The documents, long ones in pieces.

        A piece ends between a letter or digit and a space or line break wherever it can. Byte, character and the known
        BPE patterns never join these two, so that the pieces' tokens are those of the whole document.
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
        """The pieces' text alone, for those who need no documents."""
        return (piece.text for piece in self.pieces())


def read_text(source: str, config: DataConfig, folder: Path, *, progress: bool = False) -> Text:
    """The text of a source, read at the first call and found in the cache `folder` later.

    Args:
        source: config.source or config.validation.
        config: says which field holds the text and how many documents are read at most.
        folder: the cache.
        progress: show a bar on standard error.

    Raises:
        ValueError, OSError: as `sources.read_documents`; also where no document has any text.
    """
    limit = config.max_documents
    fingerprint = sources.fingerprint(source, config.field)

    def make(temporary: Path) -> dict[str, Any]:
        pieces = sources.read_pieces(source, config.field)
        documents = _write(pieces, temporary / "text.bin", limit=limit, source=source, progress=progress)
        np.save(temporary / "documents.npy", documents)
        return {"source": source, "field": config.field, "fingerprint": fingerprint}

    home = folder / f"text-{cache.key(fingerprint, limit)}"
    cache.entry(home, make)
    return Text(home / "text.bin", np.load(home / "documents.npy"), fingerprint)


def _write(pieces: Iterable[Piece], path: Path, *, limit: int | None, source: str, progress: bool) -> np.ndarray:
    """Documents of one text after another into one file; those without text are left out."""
    documents: list[tuple[int, int, int]] = []
    end, chars, digest = 0, 0, hashlib.blake2b(digest_size=8)
    bar = tqdm(desc="reading", unit="B", unit_scale=True, disable=not progress, leave=False)
    with path.open("wb") as file, bar:
        for text, last in pieces:
            try:
                data = text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"document {len(documents) + 1} of {source} is not valid Unicode ({error.reason}): mend or drop it"
                ) from None
            file.write(data)
            digest.update(data)
            end, chars = end + len(data), chars + len(text)
            bar.update(len(data))
            if last and chars:
                documents.append((end, chars, int.from_bytes(digest.digest(), "little")))
            if last:
                chars, digest = 0, hashlib.blake2b(digest_size=8)
            if len(documents) == limit:
                break
    if not documents:
        raise ValueError(f"{source} has no text: give a source with at least one document that is not empty")
    return np.array(documents, DOCUMENTS)


def _cut(text: str) -> int:
    """Where a piece may end without changing the tokens; else after the last line; else anywhere."""
    match = _BEFORE_SPACE.match(text)
    return match.end() if match else text.rfind("\n") + 1 or len(text)
