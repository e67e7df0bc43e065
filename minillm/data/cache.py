"""Entries of the user's cache folder: made whole or not at all, verified when read.

An entry is a folder whose name is a hash of all that its content depends on. It is written under a temporary name,
sealed and renamed into place; processes that make the same entry at once make the same bytes, and the first
to rename wins. An entry that does not match its manifest is made again.
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

from minillm.storage import find_damage, force_to_disk, read_manifest, seal, writing

FORMAT = 1
"""Part of every key; raised when entries of an older version must not be read any more."""

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

    `make` writes the entry's files into the folder it is given and returns the entry's facts, as JSON values.
    """
    if (facts := _verified(folder)) is not None:
        return facts
    for path in folder.parent.glob(".*"):  # what a killed process left unfinished
        if _UNFINISHED.fullmatch(path.name) and time.time() - path.stat().st_mtime > WEEK:
            shutil.rmtree(path, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"cannot write the cache {folder.parent} ({error}); choose a folder with --data.cache") from None
    try:
        with writing(folder.parent, "free some disk space, or choose another folder with --data.cache"):
            facts = make(temporary)
            seal(temporary, facts=facts)
            _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def _verified(folder: Path) -> dict[str, Any] | None:
    """The facts of an undamaged entry, else None."""
    return read_manifest(folder).get("facts") if find_damage(folder) is None else None


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
    force_to_disk(folder.parent)
