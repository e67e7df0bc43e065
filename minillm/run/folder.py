"""Run folders: what they are called, what is in them, and who may write to one.

    config.toml  tokenizer.json  run.json  metrics.jsonl  curve.png  step-000500/ ...

config.toml is written last of the files that a start leaves, and in one step: a folder that has it is a run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minillm.config import RunConfig, save_config
from minillm.storage import temporary_for, write_text
from minillm.tokenizers.base import FILE_NAME as TOKENIZER
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.load import load_tokenizer
from minillm.training.checkpoint import Checkpoint, best_good, checkpoints, newest_good
from minillm.training.progress import say_on

Say = Callable[[str], None]
RUNS = Path("runs")
CONFIG, ABOUT, METRICS, CURVE = "config.toml", "run.json", "metrics.jsonl", "curve.png"
LOCK = ".lock"


class TakenError(ValueError):
    """A folder that holds something else, or that another process is training in."""


def require_free(folder: Path) -> None:
    """TakenError if the folder holds anything except what a start left that was cut short before it became a run."""
    if (folder / CONFIG).is_file():
        raise TakenError(f"{folder} holds a run; continue it with train --resume, or choose another folder")
    first = folder / "step-000000"  # a run that starts from weights saves them before it becomes one
    begun = {TOKENIZER, ABOUT, LOCK, first.name}
    begun |= {temporary_for(path).name for path in (folder / TOKENIZER, folder / ABOUT, folder / CONFIG, first)}
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - begun):
        raise TakenError(f"{folder} exists and is not empty; choose another folder")


@contextmanager
def claim(folder: Path, *, resume: bool) -> Iterator[Path]:
    """Make the folder this process's own, so that no two trainings write to it; removed again if an error leaves it
    empty.

    Raises:
        TakenError: another process is training there, or it holds something else.
        OSError: the folder cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if not resume:
        require_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise TakenError(f"another process is training in {folder}; wait for it, or choose another --out") from None
    try:
        if not resume:
            require_free(folder)  # again: now nothing can come between
        yield folder
    except BaseException:
        if made and [path.name for path in folder.iterdir()] == [LOCK]:
            with suppress(OSError):  # Windows deletes no open file
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()
        raise
    finally:
        lock.release()


@contextmanager
def claim_new(config: RunConfig, out: Path | None) -> Iterator[Path]:
    """Claim `out` for a new run; None: a new folder under runs/, named after the model and the time.

    Raises:
        TakenError: `out` is not free.
        OSError: the folder cannot be made.
    """
    with ExitStack() as stack:
        for folder in [out] if out else default_folders(config):
            try:
                stack.enter_context(claim(folder, resume=False))
                break
            except TakenError:
                if out:
                    raise
        yield folder


def default_folders(config: RunConfig) -> Iterator[Path]:
    """Names for a new run, in the order in which they are tried."""
    name = f"{config.model.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    yield RUNS / name
    yield from (RUNS / f"{name}-{n}" for n in count(2))


def write_start(folder: Path, config: RunConfig, tokenizer: Tokenizer, about: dict[str, Any], *, resume: bool) -> None:
    """Write all that a run needs besides its checkpoints; a resumed run keeps what run.json says of its origin."""
    if resume:
        with suppress(ValueError):  # a damaged one is replaced
            about = read_about(folder) | about
    else:
        tokenizer.save(folder)
    write_text(folder / ABOUT, json.dumps(about, indent=1))
    save_config(config, folder / CONFIG)


def read_about(folder: Path) -> dict[str, Any]:
    """The content of run.json; ValueError if the file is missing or damaged."""
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); train --resume writes it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object; train --resume writes it again")
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
    """As `find_run`; a run continues from its last undamaged checkpoint, so no other one can be named.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: `run` is an earlier checkpoint, or a damaged one.
    """
    folder = find_run(run)
    if run is not None and run.resolve() != folder.resolve():
        _named(folder, run).verify()
        last = newest_good(folder, say=lambda problem: None)
        if last is None or last.path.resolve() != run.resolve():
            raise ValueError(
                f"--resume continues from the last checkpoint of a run, which {run} is not; "
                f"name {folder}, or delete the checkpoints after this one"
            )
    return folder


def best_or_last(folder: Path, say: Say | None = None) -> Checkpoint:
    """As `best_good`, but a run without a checkpoint is a FileNotFoundError. `say` (default: a line on standard error)
    is told of damaged checkpoints.
    """
    best = best_good(folder, say or say_on(0))
    if best is None:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; continue with: minillm train --resume --out {folder}")
    return best


def find_checkpoint(run: Path | None, say: Say | None = None) -> Checkpoint:
    """A run's best checkpoint, or the one that `run` names, undamaged; `say` as in `best_or_last`.

    Raises:
        FileNotFoundError: no such run, or nothing saved in it yet.
        ValueError: the checkpoint that `run` names is damaged, or every checkpoint is.
    """
    folder = find_run(run)
    if run is None or run.resolve() == folder.resolve():
        return best_or_last(folder, say)
    checkpoint = _named(folder, run)
    checkpoint.verify()
    return checkpoint


def _named(folder: Path, path: Path) -> Checkpoint:
    """The checkpoint of the run `folder` that `path` names; ValueError if it is not one."""
    for checkpoint in checkpoints(folder):
        if checkpoint.path.resolve() == path.resolve():
            return checkpoint
    raise ValueError(f"{path} is not a checkpoint; name {folder} or one of its step-* folders")


def load_own_tokenizer(folder: Path, checkpoint: Checkpoint | None) -> Tokenizer:
    """The run's tokenizer; ValueError if it is not the one that `checkpoint` was trained with."""
    tokenizer = load_tokenizer(folder)
    was = tokenizer.hash if checkpoint is None else checkpoint.state.tokenizer
    if tokenizer.hash != was:
        raise ValueError(
            f"{folder / TOKENIZER} is not the tokenizer that this run was trained with "
            f"({tokenizer.hash[:12]}, the run has {was[:12]}); put the run's own back"
        )
    return tokenizer


def require_same_text(checkpoint: Checkpoint, fingerprint: str, source: str) -> None:
    """ValueError if the content of the text has changed since the run was trained on it; imported runs have none."""
    state = checkpoint.state
    if not state.imported and state.data != fingerprint:
        raise ValueError(
            f"the text of {source} is not the one that {checkpoint.path.parent} was trained on ({fingerprint[:12]} "
            f"now, {str(state.data)[:12]} then); restore it, name it with --data, or start a new run"
        )
