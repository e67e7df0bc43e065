"""Documents from files: plain text, .jsonl, .csv and .parquet, each read in bounded memory."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

CHUNK_BYTES = 1 << 20
"""How much of a long document is read, and tokenized, at once."""

CSV_BLOCK_BYTES = 64 << 20
"""How much of a .csv is parsed at once; no row may be longer."""


class Piece(NamedTuple):
    """A part of a document."""

    text: str
    last: bool
    """Whether the document ends here."""


def reader(path: Path) -> Callable[[Path, str], Iterator[Piece]]:
    """How a file of this name is read: by its suffix, as plain text where that says nothing else."""
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl
    return {".csv": read_csv, ".parquet": read_parquet}.get(path.suffix.lower(), read_plain)


def has_fields(path: Path) -> bool:
    """Whether the text is one field among others in a file of this name."""
    return reader(path) is not read_plain


def is_binary(path: Path) -> bool:
    """Git's test: a zero byte near the start. UTF-16, which has them too, counts as text to be converted."""
    with path.open("rb") as file:
        start = file.read(8192)
    return b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def read_plain(path: Path, field: str = "text") -> Iterator[Piece]:
    """A text file is one document; its line ends are kept as they are, a byte order mark is dropped."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: give a file with text")
    if is_binary(path):
        raise ValueError(f"{path} is a binary file: give text, or a .jsonl, .jsonl.gz, .csv or .parquet file")
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
        raise ValueError(
            f"{path} is not UTF-8 (byte {position - held + error.start}: {error.reason}): convert it to UTF-8"
        ) from None


def read_jsonl(path: Path, field: str) -> Iterator[Piece]:
    """One JSON object a line, gzip-compressed or not; blank lines and texts that are null are passed over."""
    for number, record in json_lines(path):
        yield from record_piece(record, field, f"{path} line {number}")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file that may be compressed, each with the number of its line."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json(line, path, number)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file after line {number} ({error}): fetch it again") from None
    if not number:
        raise ValueError(f"{path} is empty: give a file with one JSON object a line")


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _json(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} line {number} is not UTF-8 ({error.reason}): convert the file to UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {number} is not JSON ({error.msg} at column {error.colno}): mend it") from None
    except RecursionError:
        raise ValueError(f"{path} line {number} is nested too deeply: give one flat JSON object a line") from None
    if not isinstance(record, dict):
        raise ValueError(f'{path} line {number} is not a JSON object: each line must be one, as {{"text": ...}}')
    return record


def record_piece(record: dict[str, Any], field: str, where: str) -> Iterator[Piece]:
    """The text in a record's field; nothing where it is empty or null. `where` names the record in an error."""
    if field not in record:
        raise missing_field(where, field, list(record))
    if not isinstance(text := record[field], str | None):
        raise ValueError(f"field {field!r} of {where} is {type(text).__name__}, not text: choose with --data.field")
    if text:
        yield Piece(text, last=True)


def missing_field(where: str, field: str, fields: list[str]) -> ValueError:
    """The error for a field that is not there; it names those that are."""
    there = ", ".join(fields) or "none"
    return ValueError(f"{where} has no field {field!r}; its fields are: {there}. Choose one with --data.field")


def read_csv(path: Path, field: str) -> Iterator[Piece]:
    """Comma-separated with a header line; quoted fields may hold line breaks."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: give a file with a header line and a row")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            fields = next(csv.reader(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}): convert it to UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} has no header line of column names ({error}): mend it") from None
    if field not in fields:
        raise missing_field(str(path), field, fields)
    try:
        rows = pyarrow.csv.open_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(include_columns=[field], column_types={field: pa.string()}),
        )
        for batch in rows:
            yield from _column(batch.column(0))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a sound UTF-8 CSV file ({_first_line(error)}): mend it") from None


def read_parquet(path: Path, field: str) -> Iterator[Piece]:
    """One document a row."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise missing_field(str(path), field, schema.names)
            kind = schema.field(field).type
            if not _is_text(kind):
                raise ValueError(f"field {field!r} of {path} is {kind}, not text: choose with --data.field")
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                yield from _column(batch.column(0))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is not a sound parquet file ({_first_line(error)}): fetch or write it again"
        ) from None


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings; one that repeats itself is often stored as a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _column(column: pa.Array) -> Iterator[Piece]:
    return (Piece(text, last=True) for text in column.to_pylist() if text)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
