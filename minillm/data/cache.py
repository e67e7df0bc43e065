"""Entries of the user's cache folder: made whole or not at all, verified when read.

An entry is a folder whose name is a hash of all that its content depends on. It is written under a temporary name,
synced to disk and renamed into place; processes that make the same entry at once make the same bytes, and the first
to rename wins. A manifest with sizes and SHA-256 is written last; an entry that does not match it is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMAT = 1
"""Part of every key; raised when entries of an older version must not be read any more."""

MANIFEST = "manifest.json"
WEEK = 7 * 24 * 3600.0
_UNFINISHED = re.compile(r"\.[a-z]+-[0-9a-f]{32}-[0-9a-f]{8}(\.damaged)?")


def cache_folder(configured: str | None) -> Path:
    """The configured folder, or `minillm` in the place where this platform's caches live."""
    if configured is not None:
        return Path(configured).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "minillm"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "minillm"


def key(*parts: object) -> str:
    """Hexadecimal hash that names the entry depending on `parts`."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def entry(folder: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The facts of the entry at `folder`, made first where it is absent or damaged.

    Args:
        folder: where the entry belongs.
        make: writes the entry's files into the folder it is given and returns the entry's facts, as JSON values.

    Raises:
        OSError: the cache cannot be written; the message names the folder and the setting that moves it.
    """
    facts = _verified(folder)
    if facts is not None:
        return facts
    _sweep(folder.parent)
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"cannot write the cache {folder.parent} ({error}); choose a folder with --data.cache") from None
    try:
        facts = make(temporary)
        _seal(temporary, facts)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def _sweep(parent: Path) -> None:
    """Remove what a killed process left unfinished a week ago or longer."""
    for path in parent.glob(".*"):
        if _UNFINISHED.fullmatch(path.name) and time.time() - path.stat().st_mtime > WEEK:
            shutil.rmtree(path, ignore_errors=True)


def _verified(folder: Path) -> dict[str, Any] | None:
    """The facts of an undamaged entry, else None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest["files"].items():
            if (folder / name).stat().st_size != expected["bytes"] or _sha256(folder / name) != expected["sha256"]:
                return None
        return manifest["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seal(folder: Path, facts: dict[str, Any]) -> None:
    """Manifest last, everything on disk."""
    files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"facts": facts, "files": files}, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _publish(temporary: Path, folder: Path) -> None:
    """Rename into place; a sound entry that another process put there meanwhile stays."""
    try:
        temporary.rename(folder)
    except OSError:
        if _verified(folder) is not None:
            return
        folder.rename(temporary.with_suffix(".damaged"))
        temporary.rename(folder)
        shutil.rmtree(temporary.with_suffix(".damaged"), ignore_errors=True)
    _sync_folder(folder.parent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut once its folder is synced; Windows has no such call and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
