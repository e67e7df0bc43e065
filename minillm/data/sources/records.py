"""Readers for files with records: .jsonl, .json, .csv, .tsv and .parquet, all but .json in bounded memory.

A reader takes the columns to read as setting -> name of the column (`{"data.field": "text"}`), so that an error can
name the setting. Without columns, it reads all of them.
"""

import codecs
import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minillm.data.sources.squad import questions

MAX_FIELD = 64 << 20
"""Maximum characters in a field of a .csv or .tsv file; a field with an unclosed quote exceeds it."""

Columns = Mapping[str, str]

_PREFIX = re.compile(r"([^\W\d][^:\n]{0,39}):(?!\S)")


class Record(NamedTuple):
    """One line or row of a source."""

    fields: Mapping[str, Any]
    where: str
    """Names the record in an error message, such as "my.jsonl line 12"."""

    def text(self, field: str) -> str:
        """The text in a field; "" for null. ValueError for any other value."""
        value = self.fields[field]
        if value is None:
            return ""
        name = f"field {field!r} of {self.where}"
        if not isinstance(value, str):
            remedy = "choose another field, or write the value in quotes"
            raise ValueError(f"{name} is {type(value).__name__}, not text: {remedy}")
        try:
            value.isascii() or value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} is not valid Unicode ({error.reason}): correct it") from None
        return value


class Example(NamedTuple):
    """One example of a text-to-text task."""

    input: str
    """With the task's prefix: `add: 123 + 456`."""
    target: str
    group: str
    """The split keeps the examples of a group together."""


def task_of(text: str) -> str:
    """The task of an input: the short text before its first colon, if white space follows; else ""."""
    match = _PREFIX.match(text)
    return match[1] if match else ""


class Tally:
    """Counts documents or examples, and those that were left out, by reason."""

    def __init__(self, what: str) -> None:
        self.what, self.total, self.reasons = what, 0, Counter[str]()

    def keeps(self, **parts: str) -> bool:
        """Count an example; false if a part of it is empty."""
        self.total += 1
        empty = [f"empty {name}" for name, part in parts.items() if not part]
        self.reasons.update(empty[:1])
        return not empty

    def notes(self) -> list[str]:
        """One line, such as "45 of 95 examples passed over: empty target"; empty if nothing was left out."""
        passed = self.reasons.total()
        why = ", ".join(self.reasons) if len(self.reasons) < 2 else counted(self.reasons)
        return [f"{passed:,} of {self.total:,} {self.what} passed over: {why}"] if passed else []


def counted(reasons: Mapping[str, int]) -> str:
    """Such as "3 empty input, 2 empty target"."""
    return ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())


def ending(path: Path) -> str | None:
    """The key in READERS for a file; None for plain text."""
    return next((known for known in READERS if path.name.lower().endswith(known)), None)


def pick(fields: Mapping[str, Any], columns: Columns, where: str) -> Record:
    require_columns(fields, columns, where)
    return Record(fields, where)


def require_columns(names: Iterable[str], columns: Columns, where: str) -> None:
    """ValueError for a missing column; it names the existing ones and the setting."""
    for setting, column in columns.items():
        if column not in names:
            known = ", ".join(names) or "none"
            known = known if len(known) <= 300 else f"{known[:300]}…"
            raise ValueError(f"{where} has no field {column!r}; its fields are: {known}. Choose the field ({setting})")


def read_jsonl(path: Path, columns: Columns) -> Iterator[Record]:
    """One JSON object per line, gzip-compressed or not; blank lines are ignored."""
    number, name = 0, str(path)
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{name} line {number}"
                    record = _json(line, where)
                    if not isinstance(record, dict):
                        raise ValueError(f'{where} is not a JSON object: each line must be one, like {{"text": ...}}')
                    yield pick(record, columns, where)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file after line {number} ({error}): download it again") from None


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 ({error.reason}): convert the file to UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column" if error.lineno > 1 else "column"
        raise ValueError(f"{where} is not JSON ({error.msg} at {place} {error.colno}): correct it") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply: write flat JSON objects") from None


def read_json(path: Path, columns: Columns) -> Iterator[Record]:
    """An array of objects, or a file of SQuAD. The whole file is held in memory."""
    records = _json(path.read_bytes(), str(path))
    if isinstance(records, dict):
        records = list(questions(records, str(path)))
    for number, record in enumerate(records, start=1):
        where = f"{path} record {number}"
        if not isinstance(record, dict):
            raise ValueError(f'{where} is not a JSON object: each must be one, like {{"text": ...}}')
        yield pick(record, columns, where)


def read_table(path: Path, columns: Columns, *, delimiter: str) -> Iterator[Record]:
    """One record per row below the header (RFC 4180). Quoted fields may have line breaks; blank lines are ignored."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))  # the limit is global
    name, start = str(path), 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            named = [column for column in header if column]  # spreadsheets leave columns without a name
            if len(set(named)) < len(named):
                raise ValueError(f"{name} has two columns of the same name in {', '.join(named)}: rename one")
            require_columns(header, columns, name)
            places = [(column, header.index(column)) for column in columns.values() or named]
            start = rows.line_num + 1
            for row in rows:
                if len(row) == len(header):
                    yield Record({column: row[place] for column, place in places}, f"{name} line {start}")
                elif row:
                    raise ValueError(
                        f"{name} line {start} has {len(row)} fields, but the header has {len(header)}: correct the row"
                    )
                start = rows.line_num + 1
        except UnicodeDecodeError as error:
            where = f"{name} line {_first_undecodable(path)}"
            raise ValueError(f"{where} is not UTF-8 ({error.reason}): convert the file to UTF-8") from None
        except csv.Error as error:
            open_quote = "unexpected end" in str(error) or "field limit" in str(error)
            problem = "a quote is opened here and never closed" if open_quote else f"{error}, at line {rows.line_num}"
            raise ValueError(f"{name} line {start}: {problem}; inside a quoted field, write each quote twice") from None


def _first_undecodable(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def read_parquet(path: Path, columns: Columns) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet

    name, wanted = str(path), list(dict.fromkeys(columns.values()))
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            require_columns(file.schema_arrow.names, columns, name)
            batches = file.iter_batches(batch_size=1024, columns=wanted or None)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield Record(row, f"{name} row {number}")
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a valid parquet file ({reason}): download or write it again") from None


READERS: dict[str, Callable[[Path, Columns], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".ndjson": read_jsonl,
    ".ndjson.gz": read_jsonl,
    ".json": read_json,
    ".csv": partial(read_table, delimiter=","),
    ".tsv": partial(read_table, delimiter="\t"),
    ".parquet": read_parquet,
}
"""Ending of a file's name -> reader of its records."""
