"""Run folders: their names, contents and locks.

    config.toml  tokenizer.json  chat_template.jinja  run.json
    metrics.jsonl  samples.jsonl  curve.png  step-000500/ ...

When a run starts, config.toml is written last and atomically: a folder that has it is a run.
"""

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
from minillm.tokenizers.base import CHAT_TEMPLATE_FILE, Tokenizer
from minillm.tokenizers.base import FILE_NAME as TOKENIZER
from minillm.tokenizers.load import load_tokenizer
from minillm.training.checkpoint import Checkpoint, best_good, checkpoints, newest_good
from minillm.training.progress import say_on

Say = Callable[[str], None]
RUNS = Path("runs")
CONFIG, ABOUT, METRICS, CURVE = "config.toml", "run.json", "metrics.jsonl", "curve.png"
SAMPLES = "samples.jsonl"
LOCK = ".lock"


class TakenError(ValueError):
    """The folder holds something else, or another process is training in it."""


def require_free(folder: Path) -> None:
    """TakenError if the folder holds anything except files of a start that was interrupted before it became a run."""
    if (folder / CONFIG).is_file():
        raise TakenError(f"{folder} holds a run; continue it with train --resume, or choose another folder")
    first = folder / "step-000000"  # with --init-from, the weights are saved before config.toml
    texts = {TOKENIZER, CHAT_TEMPLATE_FILE, ABOUT}
    begun = texts | {LOCK, first.name}
    begun |= {temporary_for(folder / name).name for name in (*texts, CONFIG, first.name)}
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - begun):
        raise TakenError(f"{folder} exists and is not empty; choose another folder")


@contextmanager
def claim(folder: Path, *, resume: bool) -> Iterator[Path]:
    """Context in which only this process may write to the folder; it is removed if an error leaves it empty.

    TakenError if another process is training in it or, unless `resume`, it holds something; OSError if it cannot be
    created.
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
            require_free(folder)  # again, now that no other process can write to it
        yield folder
    except BaseException:
        if made and [path.name for path in folder.iterdir()] == [LOCK]:
            with suppress(OSError):  # Windows does not delete open files
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()
        raise
    finally:
        lock.release()


@contextmanager
def claim_new(config: RunConfig, out: Path | None) -> Iterator[Path]:
    """Claim `out` for a new run; None: a new folder under runs/, named after model and time. Errors as in `claim`."""
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
    """Folders to try for a new run, in order."""
    name = f"{config.model.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    yield RUNS / name
    yield from (RUNS / f"{name}-{n}" for n in count(2))


def write_start(folder: Path, config: RunConfig, tokenizer: Tokenizer, about: dict[str, Any], *, resume: bool) -> None:
    """Write the files that a run needs besides checkpoints. When resuming, existing values in run.json stay."""
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
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); train --resume writes it again") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path} is not a JSON object; train --resume writes it again")
    return about


def find_run(run: Path | None) -> Path:
    """The folder of `run`, a run folder or a checkpoint in one; None: the latest under runs/. FileNotFoundError if
    there is none.
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
    raise FileNotFoundError(f"{run} is not a run folder: it has no {CONFIG}; pass the folder given to --out")


def find_run_to_resume(run: Path | None) -> Path:
    """As `find_run`; ValueError if `run` is a checkpoint other than the last undamaged one."""
    folder = find_run(run)
    if run is not None and run.resolve() != folder.resolve():
        _named(folder, run).verify()
        last = newest_good(folder, say=lambda problem: None)
        if last is None or last.path.resolve() != run.resolve():
            raise ValueError(
                f"--resume continues from the last checkpoint of a run, but {run} is not the last one; "
                f"name {folder}, or delete the checkpoints after this one"
            )
    return folder


def best_or_last(folder: Path, say: Say | None = None) -> Checkpoint:
    """As `best_good`; FileNotFoundError if there is no checkpoint. By default `say` prints to standard error."""
    best = best_good(folder, say or say_on(0))
    if best is None:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; continue with: minillm train --resume --out {folder}")
    return best


def find_checkpoint(run: Path | None, say: Say | None = None) -> Checkpoint:
    """The best checkpoint of a run folder, or the checkpoint `run`; `say` as in `best_or_last`.

    FileNotFoundError if there is no run or checkpoint; ValueError if the given checkpoint or every one is damaged.
    """
    folder = find_run(run)
    if run is None or run.resolve() == folder.resolve():
        return best_or_last(folder, say)
    checkpoint = _named(folder, run)
    checkpoint.verify()
    return checkpoint


def _named(folder: Path, path: Path) -> Checkpoint:
    """The checkpoint at `path` in the run `folder`; ValueError if there is none."""
    for checkpoint in checkpoints(folder):
        if checkpoint.path.resolve() == path.resolve():
            return checkpoint
    raise ValueError(f"{path} is not a checkpoint; name {folder} or one of its step-* folders")


def load_own_tokenizer(folder: Path, checkpoint: Checkpoint | None) -> Tokenizer:
    """The tokenizer of the run; ValueError if `checkpoint` was trained with another one."""
    tokenizer = load_tokenizer(folder)
    was = tokenizer.hash if checkpoint is None else checkpoint.state.tokenizer
    if tokenizer.hash != was:
        raise ValueError(
            f"{folder / TOKENIZER} is not the tokenizer that this run was trained with "
            f"({tokenizer.hash[:12]}, the run has {was[:12]}); restore the original file"
        )
    return tokenizer


def require_same_text(checkpoint: Checkpoint, fingerprint: str, source: str) -> None:
    """ValueError if the text is not the one that the run was trained on; imported runs have none."""
    state = checkpoint.state
    if not state.imported and state.data != fingerprint:
        raise ValueError(
            f"the text of {source} is not the one that {checkpoint.path.parent} was trained on ({fingerprint[:12]} "
            f"now, {str(state.data)[:12]} then); restore it, name it with --data, or start a new run"
        )
