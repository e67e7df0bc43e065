"""Which checkpoint a run is known by, and which folders are free."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from minillm import RunConfig, save_config
from minillm.run import folder as folder_module
from minillm.run.folder import best_or_last, claim, claim_new, find_run, require_free
from minillm.training.checkpoint import save_checkpoint, weights
from minillm.training.state import CheckpointState, TrainState


def save(run: Path, step: int, best_step: int | None) -> None:
    state = CheckpointState(TrainState(best_step=best_step), scaler={}, tokenizer="t", data="d")
    save_checkpoint(run, step, model=weights(nn.Linear(1, 1)), optimizer={}, state=state)


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
    with claim_new(RunConfig(), None) as folder:
        assert folder.parent == Path("runs") and folder.name.startswith("qwen3-nano-20") and folder.is_dir()


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder_module.time, "strftime", lambda _: "20260101-000000")
    with claim_new(RunConfig(), None) as first, claim_new(RunConfig(), None) as second:
        names = [first.name, second.name]
        (second / "notes.txt").touch()
    with claim_new(RunConfig(), None), claim_new(RunConfig(), None) as third:
        names.append(third.name)
    base = "qwen3-nano-20260101-000000"
    assert names == [base, f"{base}-2", f"{base}-3"]


def test_a_name_that_the_user_gave_is_not_changed(tmp_path: Path):
    with claim_new(RunConfig(), tmp_path / "run") as folder:
        assert folder == tmp_path / "run"
        with pytest.raises(ValueError, match="another process is training in"), claim_new(RunConfig(), folder):
            pytest.fail("claimed twice")


def test_an_error_before_anything_is_written_leaves_no_folder(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "runs" / "a" / "run", tmp_path / "mine"):
        with pytest.raises(KeyboardInterrupt), claim(folder, resume=False):
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(KeyboardInterrupt), claim(tmp_path / "kept", resume=False):
        (tmp_path / "kept" / "metrics.jsonl").touch()
        raise KeyboardInterrupt
    assert (tmp_path / "kept" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["notes.txt", "step-000001", ".git"])
def test_a_folder_that_holds_anything_else_is_not_free(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="exists and is not empty; choose another folder"):
        require_free(tmp_path)


def test_a_run_is_not_free_and_the_message_tells_how_to_continue_it(tmp_path: Path):
    save_config(RunConfig(), tmp_path / "config.toml")
    with pytest.raises(ValueError, match="holds a run; continue it with train --resume"):
        require_free(tmp_path)
    assert find_run(tmp_path) == tmp_path


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="choose another folder"):
        require_free(tmp_path / "file")


def test_an_empty_folder_is_free_and_a_claim_ends_with_its_block(tmp_path: Path):
    for _ in range(2):
        with claim(tmp_path / "a" / "b", resume=False):
            assert (tmp_path / "a" / "b").is_dir()


def test_what_comes_between_the_look_and_the_claim_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "run"
    looked: list[Path] = []

    def look(path: Path) -> None:
        require_free(path)
        if not looked:
            folder.mkdir()
            save_config(RunConfig(), folder / "config.toml")
        looked.append(path)

    monkeypatch.setattr(folder_module, "require_free", look)
    with pytest.raises(ValueError, match="holds a run"), claim(folder, resume=False):
        pytest.fail("claimed a run")
    assert (folder / "config.toml").is_file()
