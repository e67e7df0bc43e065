"""From the name of a source to its documents: file, folder, glob, hub or builtin."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from minillm.data import files
from minillm.data.builtin import BUILTINS, library_files
from minillm.data.files import Piece
from minillm.data.hub import find_dataset, read_hub

BUILTIN, HUB = "builtin:", "hf:"
"""What the names of sources begin with that are not paths."""


def read_documents(source: str, field: str = "text") -> Iterator[str]:
    """The documents of a source, always in the same order.

    A text file is one document. A folder is read with all its subfolders, sorted by name, without hidden, empty and
    binary files; so is a glob. A row or line of .jsonl, .csv, .parquet and hub sources is a document.

    Args:
        source: text file, folder, glob, .jsonl(.gz), .csv, .parquet, hf:NAME, hf:NAME/CONFIG or builtin:NAME.
        field: where the text is in a source with fields.

    Raises:
        FileNotFoundError: there is no such file, folder or match.
        ValueError: it is empty, binary, not UTF-8 or damaged, or has no such field.
        OSError: it cannot be read, or the hub cannot be reached.
    """
    parts: list[str] = []
    for text, last in read_pieces(source, field):
        parts.append(text)
        if last:
            yield "".join(parts)
            parts = []


def read_pieces(source: str, field: str = "text") -> Iterator[Piece]:
    """As `read_documents`, long documents in several pieces, so that no file need fit in memory."""
    if source.startswith(BUILTIN):
        yield from (Piece(text, last=True) for text in _builtin(source)())
    elif (name := hub_name(source)) is not None:
        yield from read_hub(find_dataset(name), field)
    else:
        for path in find_files(source):
            yield from files.reader(path)(path, field)


def fingerprint(source: str, field: str = "text") -> str:
    """Hexadecimal hash of the content that `read_documents` would give, without parsing it."""
    if source.startswith(BUILTIN):
        name = _builtin(source).__name__
        return _digest([(name, path) for path in library_files()])
    if (name := hub_name(source)) is not None:
        return hashlib.sha256(repr((find_dataset(name), field)).encode()).hexdigest()
    return _digest([(_form(path, field), path) for path in find_files(source)])


def _form(path: Path, field: str) -> str:
    """How a file is read, as far as that depends on its name and on the field."""
    read = files.reader(path)
    return read.__name__ if read is files.read_plain else f"{read.__name__} {field}"


def _digest(parts: list[tuple[str, Path]]) -> str:
    """Hash of the files' contents, each with the word that stands before it."""
    digest = hashlib.sha256()
    for form, path in parts:
        with path.open("rb") as file:
            digest.update(f"{form} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _builtin(source: str) -> Callable[[], Iterator[str]]:
    if source.removeprefix(BUILTIN) not in BUILTINS:
        raise ValueError(f"there is no {source}: take one of {', '.join(BUILTIN + name for name in BUILTINS)}")
    return BUILTINS[source.removeprefix(BUILTIN)]


def hub_name(source: str) -> str | None:
    """The name after hf:, unless it names something on this machine, which comes first."""
    name = source.removeprefix(HUB)
    return None if name == source or (name and Path(name).expanduser().exists()) else name


def find_files(source: str) -> list[Path]:
    """The files behind a file, folder or glob, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    source = source.removeprefix(HUB)
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir() and source:  # an empty name is no way to ask for the working directory
        found = _usable(_walk(path))
        wanted = f"folder {path} holds no text files"
    elif glob.has_magic(source):
        found = _usable(Path(p) for p in glob.glob(str(path), recursive=True))
        wanted = f"no text file matches {source}"
    else:
        raise FileNotFoundError(
            f"no file or folder {source} (in {Path.cwd()}): give a text file, folder or glob, "
            "a .jsonl, .csv or .parquet file, hf:NAME, or builtin:python-docs"
        )
    if not found:
        raise FileNotFoundError(f"{wanted}: hidden, empty and binary files are left out")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _usable(paths: Iterator[Path]) -> list[Path]:
    """Files with text in them: a compressed or columnar file is binary but readable."""
    return sorted(
        p for p in paths if p.is_file() and p.stat().st_size and (files.has_fields(p) or not files.is_binary(p))
    )
