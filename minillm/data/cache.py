"""The user's cache folder.

The name of an entry is a hash of everything that its content depends on. An entry is written under a temporary name,
sealed and renamed into place. If several processes write the same entry at once, the first rename wins. Entries are
verified when they are read; a damaged one is written again.
"""

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
"""Part of every key; increase it when entries of older versions must no longer be read."""

WEEK = 7 * 24 * 3600.0
_UNFINISHED = re.compile(r"\.[a-z]+-[0-9a-f]{32}-[0-9a-f]{8}(\.damaged)?")


def cache_folder(configured: str | None) -> Path:
    """The configured folder, or `minillm` in this platform's cache folder."""
    if configured is not None:
        return Path(configured).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "minillm"
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "minillm"


def key(*parts: object) -> str:
    """Name of the entry that depends on `parts`: a hexadecimal hash."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def entry(folder: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The facts of the entry at `folder`; if it is absent or damaged, `make` writes it first.

    `make` writes the entry's files into the folder that it is given and returns the facts, a JSON object.
    """
    if (facts := _verified(folder)) is not None:
        return facts
    for path in folder.parent.glob(".*"):  # left by killed processes
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
    return read_manifest(folder).get("facts") if find_damage(folder) is None else None


def _publish(temporary: Path, folder: Path) -> None:
    """Rename into place, unless another process has already put an undamaged entry there."""
    try:
        temporary.rename(folder)
    except OSError:
        if _verified(folder) is not None:
            return
        folder.rename(temporary.with_suffix(".damaged"))
        temporary.rename(folder)
        shutil.rmtree(temporary.with_suffix(".damaged"), ignore_errors=True)
    force_to_disk(folder.parent)
