"""Reads documents and records from a source: a file, folder, glob, hub data set or builtin."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from minillm.data.sources.builtin import BUILTINS, library_files
from minillm.data.sources.files import Piece, is_squad, read_plain, why_not_text
from minillm.data.sources.hub import find_dataset, read_hub
from minillm.data.sources.records import READERS, Columns, Record, counted, ending

BUILTIN, HUB = "builtin:", "hf:"
"""Prefixes of sources that are not paths."""
RECORD_FILES = "records in .jsonl (one a line), .json (an array), .csv, .tsv or .parquet"


def read_pieces(source: str, field: str = "text") -> Iterator[Piece]:
    """The documents of a source in a fixed order, in pieces of bounded size. An empty document is an empty piece.

    A text file is one document, and so is a record. Folders are read with all subfolders, sorted by name. Hidden files,
    empty files and files in other formats are left out of folders and globs.

    Args:
        source: text file, folder, glob, .jsonl(.gz), .json, .csv, .tsv, .parquet, hf:NAME, hf:NAME/CONFIG or
            builtin:NAME.
        field: name of the field with the text, in sources with fields.

    Raises:
        FileNotFoundError: there is no such file, folder or match.
        ValueError: the source is empty, damaged, not UTF-8, in another format, or lacks the field.
        OSError: a file cannot be read, or the hub cannot be reached.
    """
    if source.startswith(BUILTIN):
        yield from (Piece(text, last=True) for text in _builtin(source)())
        return
    for path, records in _readers(source, {"data.field": field}):
        if records is None:
            yield from read_plain(path)
        else:
            yield from (Piece(record.text(field), last=True) for record in records)


def read_records(source: str, columns: Columns) -> Iterator[Record]:
    """The records of a source; ValueError for text files. `columns` maps settings to the columns that they name."""
    for path, records in _readers(source, columns):
        if records is None:
            raise ValueError(f"{path} has no fields: give examples as {RECORD_FILES}")
        yield from records


def read_texts(source: str, field: str = "text", pair_field: str | None = None) -> Iterator[str | tuple[str, str]]:
    """The texts of a source, one a record or, in text files, one a line; pairs with `pair_field`. Empty lines are left
    out; ValueError as in `read_pieces`."""
    columns = {"data.field": field} | ({"data.pair_field": pair_field} if pair_field else {})
    for path, records in _readers(source, columns):
        if records is None and pair_field:
            raise ValueError(f"{path} has no fields: give pairs as {RECORD_FILES}")
        if records is None:
            whole = "".join(piece.text for piece in read_plain(path))
            yield from (line for line in whole.splitlines() if line.strip())
        for record in records or ():
            yield (record.text(field), record.text(pair_field)) if pair_field else record.text(field)


def _readers(source: str, columns: Columns) -> Iterator[tuple[Path, Iterator[Record] | None]]:
    """Each file of a source with its records, or None for plain text. A hub data set counts as one file."""
    if (name := hub_name(source)) is not None:
        yield Path(name), read_hub(find_dataset(name), columns)
        return
    for path in find_files(source)[0]:
        form = ending(path)
        yield path, None if form is None else READERS[form](path, columns)


def has_fields(source: str) -> bool:
    """Whether any file of the source has fields."""
    if source.startswith(BUILTIN):
        return False
    return hub_name(source) is not None or any(map(ending, find_files(source)[0]))


def left_out(source: str) -> tuple[str, ...]:
    """At most one line that says which files of a folder or glob are not read, and why."""
    return () if source.startswith(BUILTIN) or hub_name(source) is not None else find_files(source)[1]


def fingerprint(source: str, field: str = "text") -> str:
    """Hexadecimal hash of the content that `read_pieces` would return, without parsing it."""
    if source.startswith(BUILTIN):
        name = _builtin(source).__name__
        return _digest([(name, path) for path in library_files()])
    if (name := hub_name(source)) is not None:
        return hashlib.sha256(repr((find_dataset(name), field)).encode()).hexdigest()
    # the words for a file's format must never change: they are part of the fingerprints that runs keep
    forms = {path: ending(path) for path in find_files(source)[0]}
    return _digest(
        [("read_plain" if form is None else f"read_{form.split('.')[1]} {field}", path) for path, form in forms.items()]
    )


def _digest(parts: list[tuple[str, Path]]) -> str:
    """Hash of the words and the files' contents."""
    digest = hashlib.sha256()
    for form, path in parts:
        with path.open("rb") as file:
            digest.update(f"{form} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _builtin(source: str) -> Callable[[], Iterator[str]]:
    if source.removeprefix(BUILTIN) not in BUILTINS:
        raise ValueError(f"there is no {source}: choose one of {', '.join(BUILTIN + name for name in BUILTINS)}")
    return BUILTINS[source.removeprefix(BUILTIN)]


def hub_name(source: str) -> str | None:
    """The name after hf:, or None for other sources. A file or folder of that name on this machine has precedence."""
    name = source.removeprefix(HUB)
    return None if name == source or (name and Path(name).expanduser().exists()) else name


def find_files(source: str) -> tuple[list[Path], tuple[str, ...]]:
    """The files of a file, folder or glob, sorted, and at most one line about what is left out."""
    source = source.removeprefix(HUB)
    path = Path(source).expanduser()
    if path.is_file():
        if (reason := why_not_text(path)) and not is_squad(path):
            raise ValueError(f"{path} is {reason}: give a text file, or {RECORD_FILES}")
        return [path], ()
    hidden: list[Path] = []
    if path.is_dir() and source:  # an empty name does not mean the working directory
        paths, wanted = _walk(path, hidden), f"folder {path} has no text files"
    elif glob.has_magic(source):
        paths, wanted = map(Path, glob.glob(str(path), recursive=True)), f"no text file matches {source}"
    else:
        raise FileNotFoundError(
            f"no file or folder {source} (in {Path.cwd()}): give a text file, folder or glob, "
            f"{RECORD_FILES}, hf:NAME, or builtin:python-docs"
        )
    files, reasons = [], Counter[str]()
    for path in filter(Path.is_file, sorted(paths)):
        if reason := why_not_text(path):
            reasons[reason] += 1
        else:
            files.append(path)
    if hidden:
        reasons["hidden"] = len(hidden)
    note = f"left out of {source}: {counted(reasons)}" if reasons else ""
    if not files:
        raise FileNotFoundError(f"{wanted}{note and f' ({note})'}: give a folder, glob or file with text")
    return files, (note,) if note else ()


def _walk(folder: Path, hidden: list[Path]) -> Iterator[Path]:
    """The files of a folder and its subfolders. Hidden files and folders are added to `hidden` instead."""
    for parent, folders, names in os.walk(folder):
        hidden += (Path(parent, name) for name in (*folders, *names) if name.startswith("."))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))
