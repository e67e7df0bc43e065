"""A crash or a full disk at any file-system call: the old checkpoints stay, the new one is whole or absent."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from minillm import storage
from minillm.storage import write_text
from minillm.training import checkpoint as module
from minillm.training.checkpoint import remove_old

Save = Callable[[Path, int, float], None]
Values = Callable[[Path], dict[int, float]]


class Crash(BaseException):
    """The process ends here; nothing catches it."""


CALLS = [
    *((os, name) for name in ("fsync", "open", "unlink", "rmdir")),
    *((Path, name) for name in ("rename", "replace", "mkdir", "write_text")),
    (module, "save_file"),
    (shutil, "rmtree"),
]


@contextmanager
def failing_at(k: int, error: BaseException, monkeypatch: pytest.MonkeyPatch, *, forever: bool) -> Iterator[list[int]]:
    """The k-th file-system call raises before it does anything, and with `forever` every later one too."""
    count = [0]

    def wrap(call: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == k or (forever and count[0] > k):
                raise error
            return call(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, wrap(getattr(owner, name)))
        yield count


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_a_crash_at_any_file_system_call_keeps_the_old_checkpoint_and_no_partial_new_one(
    save: Save, values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
):
    outcomes = set()
    for k in range(1, 100):
        run = tmp_path / f"crash-{k}"
        save(run, 1, 1.0)
        save(run, 2, 2.0)
        step = 2 if again else 3
        try:
            with failing_at(k, Crash(), monkeypatch, forever=True):
                save(run, step, 3.0)
                remove_old(run, keep=1, best_step=None, step=step)
            done = True
        except Crash:
            done = False
        found = values(run)
        outcomes.add(tuple(found.items()))
        assert max(found) in (2, 3)
        assert found[2] in (2.0, 3.0) if again else found.get(2, 2.0) == 2.0 and found.get(3, 3.0) == 3.0
        save(run, 4, 4.0)  # the next run goes on, whatever lies around
        remove_old(run, keep=1, best_step=None, step=4)
        assert values(run) == {4: 4.0} and [p.name for p in run.iterdir()] == ["step-000004"]
        if done:
            break
    assert done and k > 15
    assert {(1, 1.0), (2, 2.0)} <= set().union(*map(set, outcomes)) and any(3.0 in dict(o).values() for o in outcomes)


FULL = "No space left on device"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, FULL), SafetensorError(f"I/O error: {FULL}")])
def test_a_full_disk_is_a_one_line_error_and_keeps_other_checkpoints(
    save: Save, values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    for k in range(1, 100):
        run = tmp_path / f"full-{k}"
        save(run, 1, 1.0)
        try:
            with failing_at(k, error, monkeypatch, forever=False):
                save(run, 2, 2.0)
            break
        except OSError as caught:
            assert f"{run / 'step-000002'}: " in str(caught) and "--resume" in str(caught)
        found = values(run)
        assert found in ({1: 1.0}, {1: 1.0, 2: 2.0})
        assert len(list(run.iterdir())) == len(found), "what was written in vain is deleted"
    assert k > 10


def test_small_files_are_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "metrics.jsonl"
    write_text(file, "old\n")
    for k in range(1, 20):
        try:
            with failing_at(k, Crash(), monkeypatch, forever=True):
                write_text(file, "new\n")
            break
        except Crash:
            assert file.read_text(encoding="utf-8") in ("old\n", "new\n")
    assert k > 3 and file.read_text(encoding="utf-8") == "new\n"


def test_files_are_synced_before_the_rename_and_the_folder_after_it(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    order: list[str] = []
    force, rename = storage.force_to_disk, Path.rename
    for owner in (module, storage):
        monkeypatch.setattr(owner, "force_to_disk", lambda path: order.append(path.name) or force(path))
    monkeypatch.setattr(Path, "rename", lambda path, to: order.append(f"-> {to.name}") or rename(path, to))
    save(tmp_path, 1, 1.0)
    files = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
    assert order == [*files, ".writing-step-000001", "-> step-000001", tmp_path.name]
