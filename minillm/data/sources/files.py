"""Recognizes text files and reads them in bounded memory."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CHUNK_BYTES = 1 << 20
"""Maximum size of the pieces in which documents are read and tokenized."""

NOT_TEXT = re.compile(r"\.(7z|bz2|docx|epub|gif|gz|jpe?g|mp3|od[pst]|pdf|png|pptx|rar|rtf|xlsx|xz|zip|zst)$", re.I)
"""Formats that are not plain text, although their first bytes may look like it."""
UNCHECKED = (".parquet", ".jsonl.gz", ".ndjson.gz")
"""Binary formats that contain text."""
_SQUAD = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"(version|data)"\s*:')
_RECORDS = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")


class Piece(NamedTuple):
    """A part of a document."""

    text: str
    last: bool
    """Whether the document ends here."""


def why_not_text(path: Path) -> str | None:
    """Why a file is not text, judging by its name and its first bytes; None if it is."""
    name = path.name.lower()
    if path.stat().st_size == 0:
        return "empty"
    if name.endswith(UNCHECKED):
        return None
    if NOT_TEXT.search(name):
        return f"not text ({path.suffix.lower()})"
    start = _start(path)
    # Git's test. UTF-16 also has zero bytes, but counts as text, so that the error says to convert it.
    if b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "binary"
    if name.endswith(".json") and not _RECORDS.match(start):
        return "JSON but not an array of records"
    return None


def is_squad(path: Path) -> bool:
    """Whether a .json file begins as those of SQuAD do."""
    return path.name.lower().endswith(".json") and _SQUAD.match(_start(path)) is not None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8192)


def read_plain(path: Path) -> Iterator[Piece]:
    """The pieces of a text file, which is one document. Line endings are kept; a byte order mark is dropped."""
    decoder, position = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            text = _decode(decoder, chunk, path, position)
            position += len(chunk)
            yield Piece(text, last=False)
        yield Piece(_decode(decoder, b"", path, position, final=True), last=True)


def _decode(decoder: Any, chunk: bytes, path: Path, position: int, *, final: bool = False) -> str:
    held = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        where = f"byte {position - held + error.start}"
        raise ValueError(f"{path} is not UTF-8 ({where}: {error.reason}): convert it to UTF-8") from None
