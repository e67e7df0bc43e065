"""Training as one call: what it leaves, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm import RunConfig, load_config, override, train
from minillm.data.datasets.corpus import Corpus
from minillm.run import folder as folder_module
from minillm.run import session
from minillm.run.folder import claim
from minillm.tokenizers.bpe import BPETokenizer
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics

Copy = Callable[[], Path]


def lines(run: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run / "metrics.jsonl")]


def newest(run: Path) -> dict[str, bytes]:
    last = checkpoints(run)[-1]
    return {name: (last.path / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


def test_a_run_folder_holds_all_that_belongs_to_the_run(finished: Path, config: RunConfig):
    names = {path.name for path in finished.iterdir() if not path.name.startswith((".", "step-"))}
    assert names == {"config.toml", "tokenizer.json", "run.json", "metrics.jsonl", "samples.jsonl", "curve.png"}
    assert all(path.name in (".lock",) for path in finished.glob(".*")), "nothing half written is left"
    saved = load_config(finished / "config.toml")
    chosen = {"model.vocab_size": 362, "sample.prompt": saved.sample.prompt}
    assert saved == override(config, chosen), "resolved: with the tokenizer's vocabulary and a prompt"
    assert saved.sample.prompt and saved.sample.prompt in Path(config.data.source).read_text(encoding="utf-8")
    about = json.loads((finished / "run.json").read_text(encoding="utf-8"))
    assert about["text"]["source"] == config.data.source and about["processes"] == 1
    assert {"python", "torch", "minillm", "numpy"} <= about["versions"].keys() and "cpu" in about["compute"]
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert {c.step for c in checkpoints(finished)} >= {4, 6}


def test_it_ends_with_the_figures_to_compare_and_a_sample(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = train(override(config, {"sample.prompt": "7 and"}), tmp_path / "run")
    said = capsys.readouterr().err
    assert "cpu (" in said and "fp32, eager, 1 process" in said and f"run folder: {run}" in said
    assert "bits per byte" in said and "xz -9e needs" in said and "minillm sample" in said
    samples = [line for line in said.splitlines() if line.startswith("  | 7 and")]
    assert len(samples) == 4, "one at each evaluation and one at the end"


def test_going_on_equals_never_having_stopped(config: RunConfig, finished: Path, tmp_path: Path):
    run = train(override(config, {"train.steps": 6, "schedule.name": "constant"}), tmp_path / "run")
    longer = override(load_config(run / "config.toml"), {"train.steps": 9})
    assert train(longer, run, resume=True) == run
    whole = train(override(config, {"train.steps": 9, "schedule.name": "constant"}), tmp_path / "whole")
    assert newest(run) == newest(whole) and lines(run) == lines(whole)
    assert load_config(run / "config.toml").train.steps == 9


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(
    config: RunConfig, finished: Path, copy_of_run: Copy
):
    run = copy_of_run()
    expected, expected_lines = newest(run), lines(run)
    for path in run.glob("step-*/*"):
        path.unlink()
    for path in run.glob("step-*"):
        path.rmdir()
    train(load_config(run / "config.toml"), run, resume=True)
    assert newest(run) == expected and lines(run) == expected_lines


def test_a_start_that_was_cut_short_does_not_block_the_same_command(config: RunConfig, finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("tokenizer.json", "run.json", ".lock", ".writing-config.toml"):
        (run / name).write_text("cut sho", encoding="utf-8")
    train(config, run)
    assert newest(run) == newest(finished)


def test_a_resumed_run_may_find_its_text_elsewhere(config: RunConfig, copy_of_run: Copy, text: Path, tmp_path: Path):
    run = copy_of_run()
    moved = tmp_path / "moved.txt"
    moved.write_bytes(text.read_bytes())
    settings = override(load_config(run / "config.toml"), {"train.steps": 8, "data.source": str(moved)})
    train(settings, run, resume=True)
    assert checkpoints(run)[-1].step == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.d_model": 32}, "model.d_model"),
        ({"tokenizer.kind": "char"}, "tokenizer.kind"),
        ({"data.validation_fraction": 0.2}, "data.validation_fraction"),
        ({"data.seq_len": 8}, "data.seq_len"),
        ({"optim.name": "muon"}, "optim.name"),
    ],
)
def test_a_resumed_run_is_the_same_run(copy_of_run: Copy, change: dict[str, object], words: str):
    run = copy_of_run()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=words):
        train(override(load_config(run / "config.toml"), {"train.steps": 8, **change}), run, resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "nothing is lost"


def test_a_resumed_run_refuses_another_text_by_name(copy_of_run: Copy, text: Path, tmp_path: Path):
    run = copy_of_run()
    changed = tmp_path / "changed.txt"
    changed.write_text(text.read_text(encoding="utf-8") + "One more line.\n", encoding="utf-8")
    settings = override(load_config(run / "config.toml"), {"train.steps": 8, "data.source": str(changed)})
    with pytest.raises(ValueError, match=r"the text of .*changed\.txt is not the one that .*copy was trained on"):
        train(settings, run, resume=True)


def test_a_resumed_run_refuses_another_tokenizer_even_one_of_the_same_size(copy_of_run: Copy):
    run = copy_of_run()
    BPETokenizer([bytes([value]) for value in reversed(range(256))]).save(run)  # as many ids as the run's bytes
    with pytest.raises(ValueError, match=r"copy.tokenizer\.json is not the tokenizer that this run was trained with"):
        train(override(load_config(run / "config.toml"), {"train.steps": 8}), run, resume=True)


def test_a_resumed_run_cannot_end_before_it_starts(copy_of_run: Copy):
    run = copy_of_run()
    before = (run / "config.toml").read_bytes()
    with pytest.raises(ValueError, match=r"train\.steps is 4, but .*copy is at step 6 already"):
        train(override(load_config(run / "config.toml"), {"train.steps": 4}), run, resume=True)
    assert (run / "config.toml").read_bytes() == before


def test_a_run_goes_on_from_its_last_checkpoint_and_no_other_one(copy_of_run: Copy):
    run = copy_of_run()
    longer = override(load_config(run / "config.toml"), {"train.steps": 8})
    with pytest.raises(ValueError, match=r"the last checkpoint of a run, but .*step-000004 is not the last one"):
        train(longer, run / "step-000004", resume=True)
    train(longer, run / "step-000006", resume=True)
    assert checkpoints(run)[-1].step == 8


@pytest.mark.parametrize("name", ["optimizer.safetensors", "manifest.json"])
def test_a_run_whose_last_checkpoint_is_damaged_says_so_and_continues_from_the_one_before(
    copy_of_run: Copy, capsys: pytest.CaptureFixture[str], name: str
):
    run = copy_of_run()
    expected, expected_lines = newest(run), lines(run)
    last = checkpoints(run)[-1].path
    (last / name).write_bytes(b"")
    settings = load_config(run / "config.toml")
    with pytest.raises(ValueError, match=rf"step-000006/{name} .*name .*copy to use its newest undamaged"):
        train(settings, last, resume=True)
    capsys.readouterr()
    train(settings, run / "step-000004", resume=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "instead" in line]
    assert len(said) == 1 and str(last / name) in said[0] and "left as it is, using step-000004 instead" in said[0]
    assert newest(run) == expected and lines(run) == expected_lines, "the damaged step was done again"


def test_two_runs_that_start_in_the_same_second_get_a_folder_each(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder_module.time, "strftime", lambda _: "20260101-000000")
    prepare, inner = session.prepare_corpus, []

    def meanwhile(*args: Any) -> Corpus:
        monkeypatch.setattr(session, "prepare_corpus", prepare)
        inner.append(train(config))  # starts while the first one prepares its text
        return prepare(*args)

    monkeypatch.setattr(session, "prepare_corpus", meanwhile)
    folders = [train(config), *inner]
    assert [folder.name for folder in folders] == ["gpt2-20260101-000000", "gpt2-20260101-000000-2"]
    assert newest(folders[0]) == newest(folders[1])


def test_two_trainings_do_not_share_a_folder(config: RunConfig, copy_of_run: Copy, tmp_path: Path):
    run = copy_of_run()
    settings = override(load_config(run / "config.toml"), {"train.steps": 8})
    with claim(run, resume=True), pytest.raises(ValueError, match=r"another process is training in .*copy"):
        train(settings, run, resume=True)
    train(settings, run, resume=True)
    with claim(tmp_path / "new", resume=False), pytest.raises(ValueError, match="another process is training"):
        train(config, tmp_path / "new")
