"""Crash-safe files: after a crash or a power failure, a file has either its old or its new content.

A file is written under a temporary name, forced to disk and renamed into place. A folder is sealed before it is
renamed: `manifest.json`, written last, lists the size and the SHA-256 of each file, so that damage can be detected.
"""

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
"""Of the manifest. Files without a version count as version 1."""
TEMPORARY = ".writing-"
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


def write_text(file: Path, text: str) -> None:
    """Write or replace a text file atomically."""
    temporary = temporary_for(file)
    try:
        with writing(file):
            temporary.write_text(text, encoding="utf-8")
            move_into_place(file)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_for(path: Path) -> Path:
    """The temporary name that `move_into_place` renames to `path`."""
    return path.with_name(f"{TEMPORARY}{path.name}")


def move_into_place(file: Path) -> None:
    """Force the temporary file to disk and rename it to `file`."""
    force_to_disk(temporary_for(file))
    temporary_for(file).replace(file)
    force_to_disk(file.parent)


@contextmanager
def writing(path: Path, remedy: str = "free some disk space, then run the command again") -> Iterator[None]:
    """Add `path` and a remedy to the error of a full or broken disk, which names no file."""
    try:
        yield
    except OSError as error:
        # numpy's tofile reports a full disk without an errno
        short_write = error.errno is None and str(error).endswith(" written")
        if error.filename is not None or not (short_write or error.errno in _FULL):
            raise
        raise OSError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


def seal(folder: Path, **facts: Any) -> None:
    """Force every file of `folder` to disk, then write a manifest with their sizes and hashes and `facts`."""
    files = {}
    for file in sorted(folder.iterdir()):
        force_to_disk(file)
        files[file.name] = {"size": file.stat().st_size, "sha256": sha256(file)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"version": VERSION, **facts, "files": files}, indent=1), encoding="utf-8")
    force_to_disk(manifest)
    force_to_disk(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder, `files` as name -> (size in bytes, SHA-256); ValueError if it is damaged."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        entries = manifest["files"].items()
        # manifests of older data caches call the size "bytes"
        files = {name: (entry.get("size", entry.get("bytes")), entry["sha256"]) for name, entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is missing or damaged") from None
    require_version(manifest, VERSION, path)
    return {**manifest, "files": files}


def find_damage(folder: Path, *names: str) -> str | None:
    """What is wrong with the named files of a sealed folder, or with any of its files; None if nothing is."""
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
    """ValueError if a file's `version`, 1 by default, is not between 1 and `newest`."""
    version = content.get("version", 1)
    if version not in range(1, newest + 1):
        raise ValueError(f"{file} was written by a newer minillm (version {version}, not {newest}): update minillm")


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def force_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, would survive a power failure."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders; its renames are journaled
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
