"""Which checkpoint a run is known by, and which folders are free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from minillm import RunConfig, save_config
from minillm.run.folder import best_or_last, claim, find_run, new_folder, require_free
from minillm.training.checkpoint import save_checkpoint


def save(run: Path, step: int, best_step: int | None) -> None:
    state: dict[str, Any] = {"train": {"best_step": best_step}}
    save_checkpoint(run, step, model=nn.Linear(1, 1), optimizer={}, state=state)


@pytest.mark.parametrize(
    ("steps", "best_step", "expected"),
    [([2, 4, 6], 4, 4), ([4, 6], 6, 6), ([5, 6], 2, 6), ([0, 5], None, 5), ([0], None, 0)],
    ids=[
        "the best",
        "the last is best",
        "the best was deleted",
        "stopped at once, then unevaluated",
        "stopped at once",
    ],
)
def test_the_best_is_meant_where_one_was_evaluated_and_is_there(
    tmp_path: Path, steps: list[int], best_step: int | None, expected: int
):
    for step in steps:
        save(tmp_path, step, best_step)
    assert best_or_last(tmp_path).step == expected


def test_a_folder_is_named_after_the_model_and_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = new_folder(RunConfig(), None)
    assert folder.parent == Path("runs") and folder.name.startswith("gpt-nano-20") and not folder.exists()


@pytest.mark.parametrize("name", ["notes.txt", "step-000001", ".git"])
def test_a_folder_that_holds_anything_else_is_not_free(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="exists and is not empty; choose another folder"):
        require_free(tmp_path)


def test_a_run_is_not_free_and_the_message_tells_how_to_continue_it(tmp_path: Path):
    save_config(RunConfig(), tmp_path / "config.toml")
    with pytest.raises(ValueError, match="holds a run; continue it with train --resume"):
        new_folder(RunConfig(), tmp_path)
    assert find_run(tmp_path) == tmp_path


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="choose another folder"):
        require_free(tmp_path / "file")


def test_an_empty_folder_is_free_and_a_claim_ends_with_its_block(tmp_path: Path):
    for _ in range(2):
        with claim(tmp_path / "a" / "b", resume=False):
            assert (tmp_path / "a" / "b").is_dir()


def test_what_comes_between_the_look_and_the_claim_is_not_overwritten(tmp_path: Path):
    folder = new_folder(RunConfig(), tmp_path / "run")
    folder.mkdir()
    save_config(RunConfig(), folder / "config.toml")
    with pytest.raises(ValueError, match="holds a run"), claim(folder, resume=False):
        pytest.fail("claimed a run")
