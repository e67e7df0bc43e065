"""Crash-safe files: after a crash or a power cut at any instant, a name holds its old content or the new one, whole.

A file is written under a temporary name, forced to disk and renamed into place. A folder of several files is sealed
first: `manifest.json`, written last, holds the size and the SHA-256 of each file, so that damage is found on reading.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
VERSION = 1
"""Of the manifest. Files from before there was a version have none, and count as version 1."""
TEMPORARY = ".writing-"
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


def write_text(file: Path, text: str) -> None:
    """Replace a text file in one step."""
    temporary = temporary_for(file)
    try:
        with writing(file):
            temporary.write_text(text, encoding="utf-8")
            move_into_place(file)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_for(path: Path) -> Path:
    """Where to write what `move_into_place` then renames to `path`."""
    return path.with_name(f"{TEMPORARY}{path.name}")


def move_into_place(file: Path) -> None:
    """Force the temporary file to disk and rename it to `file`."""
    force_to_disk(temporary_for(file))
    temporary_for(file).replace(file)
    force_to_disk(file.parent)


@contextmanager
def writing(path: Path, remedy: str = "free some disk space, then run the command again") -> Iterator[None]:
    """Name `path` and a remedy in the error of a full or broken disk, which comes without a file's name."""
    try:
        yield
    except OSError as error:
        # numpy's tofile tells of a full disk in its own words
        short_write = error.errno is None and str(error).endswith(" written")
        if error.filename is not None or not (short_write or error.errno in _FULL):
            raise
        raise OSError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


def seal(folder: Path, **facts: Any) -> None:
    """Force every file of `folder` to disk, and then a manifest of their sizes and hashes, together with `facts`."""
    files = {}
    for file in sorted(folder.iterdir()):
        force_to_disk(file)
        files[file.name] = {"size": file.stat().st_size, "sha256": sha256(file)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"version": VERSION, **facts, "files": files}, indent=1), encoding="utf-8")
    force_to_disk(manifest)
    force_to_disk(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder, with `files` as name -> (size in bytes, SHA-256); ValueError for a bad one."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        entries = manifest["files"].items()
        # the data cache called the size "bytes" before it shared this file
        files = {name: (entry.get("size", entry.get("bytes")), entry["sha256"]) for name, entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is missing or damaged") from None
    require_version(manifest, VERSION, path)
    return {**manifest, "files": files}


def find_damage(folder: Path, *names: str) -> str | None:
    """What is wrong with the named files of a sealed folder, or with any of them; None if they are as written."""
    try:
        files = read_manifest(folder)["files"]
    except ValueError as error:
        return str(error)
    for name in names or files:
        file = folder / name
        if name not in files:
            return f"{folder / MANIFEST} is damaged: it does not list {name}"
        size, digest = files[name]
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != size:
            return f"{file} has {file.stat().st_size} bytes, but {size} were written"
        if sha256(file) != digest:
            return f"{file} is damaged: its SHA-256 is not the one that was written"
    return None


def require_version(content: dict[str, Any], newest: int, file: Path) -> None:
    """ValueError if a file's `version`, 1 where it has none, is not one of 1 to `newest`."""
    version = content.get("version", 1)
    if version not in range(1, newest + 1):
        raise ValueError(
            f"{file} was written by a newer minillm (version {version} of the file, this one reads up to {newest}): "
            "update minillm"
        )


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def force_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, would survive a power cut."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders; its renames are journaled
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
