"""Run folders: what they are called, what is in them, and who may write to one.

    config.toml  tokenizer.json  run.json  metrics.jsonl  curve.png  step-000500/ ...

config.toml is written last of the files that a start leaves, and in one step: a folder that has it is a run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minillm.config import RunConfig, save_config
from minillm.tokenizers.base import FILE_NAME as TOKENIZER
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.load import load_tokenizer
from minillm.training.checkpoint import Checkpoint, checkpoints, move_into_place, temporary_for, write_atomically

RUNS = Path("runs")
CONFIG, ABOUT, METRICS, CURVE = "config.toml", "run.json", "metrics.jsonl", "curve.png"
LOCK = ".lock"
BY_CONTENT = {"source", "validation", "cache"}
"""Keys of [data] that a resumed run may change: the text is compared by its content."""
OF_THE_LOSS = {"label_smoothing", "z_loss"}
"""Keys of [objective] that it may change: they are no part of what is predicted, nor of the validation loss."""


def new_folder(config: RunConfig, out: Path | None) -> Path:
    """A folder for a new run, not made yet; ValueError if something lives there."""
    folder = out or RUNS / f"{config.model.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    require_free(folder)
    return folder


def require_free(folder: Path) -> None:
    """ValueError if anything is in the folder but what a start leaves that was cut short before it became a run."""
    if (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds a run; continue it with train --resume, or choose another folder")
    first = folder / "step-000000"  # a run that starts from weights saves them before it becomes one
    begun = {TOKENIZER, ABOUT, LOCK, first.name}
    begun |= {temporary_for(path).name for path in (folder / ABOUT, folder / CONFIG, first)}
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - begun):
        raise ValueError(f"{folder} exists and is not empty; choose another folder")


@contextmanager
def claim(folder: Path, *, resume: bool) -> Iterator[None]:
    """Make the folder this process's own, so that no two trainings write to it.

    Raises:
        ValueError: another process is training there, or has put something there meanwhile.
        OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another process is training in {folder}; wait for it, or choose another --out") from None
    try:
        if not resume:
            require_free(folder)
        yield
    finally:
        lock.release()


def write_start(folder: Path, config: RunConfig, tokenizer: Tokenizer, about: dict[str, Any], *, resume: bool) -> None:
    """Write all that a run needs besides its checkpoints; what a resumed run knew of its origin stays."""
    if resume:
        with suppress(ValueError):  # a damaged one is replaced
            about = read_about(folder) | about
    else:
        tokenizer.save(folder)
    write_atomically(folder / ABOUT, json.dumps(about, indent=1))
    save_config(config, temporary_for(folder / CONFIG))
    move_into_place(folder / CONFIG)


def read_about(folder: Path) -> dict[str, Any]:
    """What a run knows of its origin; ValueError where the file is missing or damaged."""
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); train --resume writes it anew") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; train --resume writes it anew")
    return found


def find_run(run: Path | None) -> Path:
    """The run folder that `run` names, which may be one of its checkpoints too; None: the latest under runs/.

    Raises:
        FileNotFoundError: there is none.
    """
    if run is None:
        runs = sorted(RUNS.glob(f"*/{CONFIG}"), key=lambda file: file.stat().st_mtime)
        if not runs:
            raise FileNotFoundError(f"there is no run under {RUNS.resolve()}; train one with: minillm train")
        return runs[-1].parent
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}; train one with: minillm train --out {run}")
    for folder in (run, run.parent):
        if (folder / CONFIG).is_file():
            return folder
    raise FileNotFoundError(f"{run} is not a run folder: it has no {CONFIG}; name the folder that --out named")


def find_run_to_resume(run: Path | None) -> Path:
    """As `find_run`; a run goes on from its last checkpoint, so that no other one can be named.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: `run` is an earlier checkpoint.
    """
    folder = find_run(run)
    if run is not None and run.resolve() not in {
        folder.resolve(),
        *(c.path.resolve() for c in checkpoints(folder)[-1:]),
    }:
        raise ValueError(
            f"--resume goes on from the last checkpoint of a run, which {run} is not; "
            f"name {folder}, or delete the checkpoints after this one"
        )
    return folder


def best_or_last(folder: Path) -> Checkpoint:
    """The checkpoint of the best evaluation; the last one where none was evaluated.

    Raises:
        FileNotFoundError: nothing is saved yet.
        ValueError: the last checkpoint, which tells the best, is damaged.
    """
    found = checkpoints(folder)
    if not found:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; go on with: minillm train --resume --out {folder}")
    best_step = found[-1].state["train"]["best_step"]
    return next((c for c in found if c.step == best_step), found[-1])


def find_checkpoint(run: Path | None) -> Checkpoint:
    """A run's best checkpoint, or the one that `run` names, verified.

    Raises:
        FileNotFoundError: no such run, or nothing saved in it yet.
        ValueError: the checkpoint is damaged.
    """
    folder = find_run(run)
    checkpoint = best_or_last(folder)
    if run is not None and run.resolve() != folder.resolve():
        named = [c for c in checkpoints(folder) if c.path.resolve() == run.resolve()]
        if not named:
            raise ValueError(f"{run} is not a whole checkpoint; delete it, the others of {folder} are untouched")
        checkpoint = named[0]
    checkpoint.verify()
    return checkpoint


def require_same_run(saved: RunConfig, config: RunConfig, folder: Path) -> None:
    """Refuse to resume with another model, tokenizer, split of the text or objective; ValueError names the key."""
    for section in ("model", "tokenizer", "data", "objective"):
        old, new = getattr(saved, section), getattr(config, section)
        for key in (field.name for field in fields(old)):
            was, now = getattr(old, key), getattr(new, key)
            free = BY_CONTENT if section == "data" else OF_THE_LOSS if section == "objective" else ()
            if was != now and key not in free:
                raise ValueError(
                    f"--resume cannot change {section}.{key}: it is {was!r} in {folder / CONFIG}, now {now!r}; "
                    "leave it as it was, or start a new run"
                )


def load_own_tokenizer(folder: Path, checkpoint: Checkpoint | None) -> Tokenizer:
    """The run's tokenizer; ValueError if it is not the one that `checkpoint` was trained with."""
    tokenizer = load_tokenizer(folder)
    was = tokenizer.hash if checkpoint is None else checkpoint.state["tokenizer"]
    if tokenizer.hash != was:
        raise ValueError(
            f"{folder / TOKENIZER} is not the tokenizer that this run was trained with "
            f"({tokenizer.hash[:12]}, the run has {was[:12]}); put the run's own back"
        )
    return tokenizer


def require_same_text(checkpoint: Checkpoint, fingerprint: str, source: str) -> None:
    """Refuse a text that has changed since the run was trained on it, by its content."""
    was = checkpoint.state["data"]
    if was is None:
        return  # imported weights, which have seen no text here
    if was != fingerprint:
        raise ValueError(
            f"the text of {source} is not the one that {checkpoint.path.parent} was trained on "
            f"({fingerprint[:12]} now, {was[:12]} then); restore it, name it with --data, or start a new run"
        )
