"""Records of several fields: the rows of .jsonl, .csv, .parquet and hub sources, as dictionaries."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from minillm.data import files, sources
from minillm.data.hub import find_dataset, hub_rows


class Record(NamedTuple):
    """One row of a source."""

    fields: dict[str, Any]
    where: str
    """Names it in an error."""

    def text(self, field: str) -> str:
        """What the field holds; "" for null.

        Raises:
            ValueError: there is no such field, or it holds something else than text.
        """
        if field not in self.fields:
            known = ", ".join(self.fields) or "none"
            raise ValueError(
                f"{self.where} has no field {field!r}, its fields are: {known}; name the right ones with "
                "--data.input_field and --data.target_field"
            )
        value = self.fields[field]
        if not isinstance(value, str | None):
            raise ValueError(f"field {field!r} of {self.where} is {type(value).__name__}, not text; put it in quotes")
        try:
            (value or "").encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"field {field!r} of {self.where} holds half a character ({error}): mend it") from None
        return value or ""


def read_records(source: str) -> Iterator[Record]:
    """The records of a source, always in the same order.

    Raises:
        FileNotFoundError, ValueError, OSError: as `sources.read_documents`; also for a source without fields.
    """
    if (name := sources.hub_name(source)) is not None:
        dataset = find_dataset(name)
        for number, row in enumerate(hub_rows(dataset), start=1):
            yield Record(row, f"hf:{dataset.repo} row {number}")
        return
    for path in sources.find_files(source):
        yield from _reader(path)(path)


def _reader(path: Path) -> Callable[[Path], Iterator[Record]]:
    readers: dict[object, Callable[[Path], Iterator[Record]]] = {
        files.read_jsonl: _jsonl,
        files.read_csv: _csv,
        files.read_parquet: _parquet,
    }
    found = readers.get(files.reader(path))
    if found is None:
        raise ValueError(f"{path} has no fields: text-to-text examples come from .jsonl, .jsonl.gz, .csv or .parquet")
    return found


def _jsonl(path: Path) -> Iterator[Record]:
    for number, record in files.json_lines(path):
        yield Record(record, f"{path} line {number}")


def _csv(path: Path) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            names = [name for name in rows.fieldnames or () if name]  # spreadsheets leave nameless ones
            if len(set(names)) < len(names):
                raise ValueError(f"{path} has two columns of one name in its header {', '.join(names)}: rename one")
            for number, row in enumerate(rows, start=1):
                if None in row or None in row.values():
                    raise ValueError(f"{path} row {number} has more or fewer fields than the header: mend it")
                yield Record({str(key): value for key, value in row.items()}, f"{path} row {number}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a sound UTF-8 CSV file ({error}): mend it") from None


def _parquet(path: Path) -> Iterator[Record]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield Record(row, f"{path} row {number}")
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a sound parquet file ({reason}): fetch or write it again") from None
