"""From a run folder back to a model."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minillm import RunConfig, SampleConfig, evaluate, find_run, load_run, override, sample, train
from minillm.run import folder as folder_module
from minillm.tokenizers.char import CharTokenizer
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics

Copy = Callable[[], Path]


def test_the_best_checkpoint_scores_what_was_logged_of_it(finished: Path):
    loaded = load_run(finished)
    logged = {x["step"]: x for x in read_metrics(finished / "metrics.jsonl") if "val_loss" in x}
    best = min(logged, key=lambda step: logged[step]["val_loss"])
    assert loaded.checkpoint.step == best
    found = evaluate(loaded)
    assert found.loss == logged[best]["val_loss"] and found.bits_per_byte == logged[best]["bits_per_byte"]
    assert f"step {best}, validation loss {found.loss:.4f}, byte tokenizer of 362 ids" in loaded.describe()


def test_a_checkpoint_folder_names_that_checkpoint(finished: Path):
    for checkpoint in checkpoints(finished):
        loaded = load_run(checkpoint.path)
        assert (loaded.folder, loaded.checkpoint.step) == (finished, checkpoint.step)


def test_a_folder_that_was_moved_needs_nothing_from_where_it_was(
    config: RunConfig, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "source.txt"
    shutil.copy(text, source)
    here = {"data.source": str(source), "data.cache": str(tmp_path / "cache")}
    run = train(override(config, here), tmp_path / "run")
    expected = evaluate(load_run(run), str(text))
    (elsewhere := tmp_path / "other" / "place").parent.mkdir()
    shutil.move(run, elsewhere)
    source.unlink()
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.chdir(tmp_path / "other")
    loaded = load_run(Path("place"))
    assert sample(loaded, SampleConfig(prompt="1 and", max_new_tokens=4))[0].ids
    assert evaluate(loaded, str(text)) == expected
    with pytest.raises(FileNotFoundError, match=r"source\.txt"):
        evaluate(loaded)


def test_all_of_another_text_is_measured_be_it_the_training_text(finished: Path, text: Path, tmp_path: Path):
    loaded = load_run(finished)
    other = tmp_path / "other.txt"
    other.write_text("3 and 4 make 7.\n", encoding="utf-8")
    assert evaluate(loaded, str(other)).targets == 17  # each byte, and EOS
    assert evaluate(loaded, str(text)).targets == len(text.read_bytes()) + 1


def test_a_text_that_has_changed_is_not_the_runs_validation_text(config: RunConfig, text: Path, tmp_path: Path):
    source = tmp_path / "source.txt"
    shutil.copy(text, source)
    run = train(override(config, {"data.source": str(source)}), tmp_path / "run")
    source.write_text(text.read_text(encoding="utf-8") + "!", encoding="utf-8")
    with pytest.raises(ValueError, match=r"the text of .*source\.txt is not the one that .*run was trained on"):
        evaluate(load_run(run))


def test_another_tokenizer_than_the_runs_is_refused_by_name(copy_of_run: Copy):
    run = copy_of_run()
    CharTokenizer.train(["another"]).save(run)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not the tokenizer that this run was trained with"):
        load_run(run)
    (run / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_run(run)


def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over_for_the_newest_good_one(
    copy_of_run: Copy, capsys: pytest.CaptureFixture[str]
):
    run = copy_of_run()
    best = load_run(run).checkpoint.path
    content = bytearray((best / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (best / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*name .*copy to use its newest undamaged"):
        load_run(best)
    capsys.readouterr()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    chosen = load_run(run).checkpoint.path
    assert chosen != best and (said := capsys.readouterr().err).count("\n") == 1
    assert f"{best / 'model.safetensors'} is damaged" in said and f"using {chosen.name} instead" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    for checkpoint in checkpoints(run):
        (checkpoint.path / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"copy has no undamaged checkpoint: .*step-000006"):
        load_run(run)


def test_where_the_newest_is_damaged_the_best_is_still_used(copy_of_run: Copy, capsys: pytest.CaptureFixture[str]):
    run = copy_of_run()
    for path in run.glob("step-*"):
        if path.name not in ("step-000004", "step-000006"):
            shutil.rmtree(path)
    (run / "step-000006" / "manifest.json").unlink()
    capsys.readouterr()
    assert load_run(run).checkpoint.step == 4
    assert re.fullmatch(
        r".*step-000006/manifest\.json is missing or damaged; left as it is, using step-000004 instead\n",
        capsys.readouterr().err,
    )


def test_a_vocabulary_may_be_padded_and_no_padding_is_ever_written(config: RunConfig, tmp_path: Path):
    run = train(override(config, {"model.vocab_size": 512, "train.steps": 2}), tmp_path / "run")
    loaded = load_run(run)
    assert loaded.config.model.vocab_size == 512 and loaded.tokenizer.vocab_size == 362
    with torch.no_grad():
        loaded.model.get_parameter("embed.tokens.weight")[362:] *= 1e3  # the padding's logits are by far the largest
    hot = SampleConfig(prompt="1", max_new_tokens=60, temperature=5.0, num_samples=3)
    assert all(token < 256 for completion in sample(loaded, hot) for token in completion.ids)


def test_sampling_in_low_precision_leaves_the_model_that_is_measured(copy_of_run: Copy):
    run = copy_of_run()
    file = run / "config.toml"
    file.write_text(file.read_text(encoding="utf-8").replace('"fp32"', '"bf16"'), encoding="utf-8")
    loaded = load_run(run)
    before = evaluate(loaded)
    sample(loaded, SampleConfig(prompt="1", max_new_tokens=3))
    assert evaluate(loaded) == before
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_a_run_from_a_machine_with_a_gpu_loads_on_one_without(copy_of_run: Copy):
    run = copy_of_run()
    file = run / "config.toml"
    there = file.read_text(encoding="utf-8").replace('device = "cpu"', 'device = "cuda"').replace('"fp32"', '"fp16"')
    file.write_text(there, encoding="utf-8")
    loaded = load_run(run, device="cpu")
    assert loaded.compute.device.type == "cpu" and loaded.compute.dtype != torch.float16
    assert evaluate(loaded).loss == pytest.approx(evaluate(load_run(run)).loss, rel=1e-2)


def test_the_latest_run_is_the_default(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder_module, "RUNS", tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match=r"there is no run under .*train one with: minillm train"):
        find_run(None)
    for name, age in (("a", 10), ("b", 0), ("c", 20)):
        shutil.copytree(finished, tmp_path / "runs" / name)
        now = (tmp_path / "runs" / name / "config.toml").stat().st_mtime
        os.utime(tmp_path / "runs" / name / "config.toml", (now - age, now - age))
    (tmp_path / "runs" / "notes").mkdir()
    assert find_run(None) == tmp_path / "runs" / "b" == load_run().folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no run folder .*train one with: minillm train --out"),
        (lambda path: path.mkdir(), r"is not a run folder: it has no config\.toml"),
        (lambda path: path.write_text("x", encoding="utf-8"), "there is no run folder"),
    ],
)
def test_what_is_no_run_is_an_error_that_names_the_next_command(tmp_path: Path, make: Callable, words: str):
    make(tmp_path / "thing")
    with pytest.raises(FileNotFoundError, match=words):
        load_run(tmp_path / "thing")


def test_a_run_without_a_checkpoint_tells_how_to_get_one(copy_of_run: Copy):
    run = copy_of_run()
    for path in run.glob("step-*"):
        shutil.rmtree(path)
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet; continue with: minillm train --resume --out"):
        load_run(run)


def test_a_checkpoint_that_is_not_whole_is_no_run(copy_of_run: Copy):
    run = copy_of_run()
    half = checkpoints(run)[0].path
    (half / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json is missing or damaged; name .*copy to use"):
        load_run(half)
    (run / "notes").mkdir()
    with pytest.raises(ValueError, match=r"notes is not a checkpoint; name .*copy or one of its step-\* folders"):
        load_run(run / "notes")
