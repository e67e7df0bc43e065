"""A user's mistake is one line that names it; nothing is left behind that would be in the way of the right command."""

from __future__ import annotations

from pathlib import Path

import pytest

from minillm import RunConfig, SpanConfig, load_config, override, train
from minillm.cli import main

PROSE = "".join(f"{n} and {n}.\n" for n in range(99))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.source": "missing.txt"}, ["missing.txt"]),
        ({"data.source": "empty.txt"}, ["empty.txt"]),
        ({"data.source": "blank.bin"}, ["blank.bin"]),
        ({"data.source": "tiny.txt"}, ["tiny.txt", "tokens", "32", "data.seq_len"]),
        ({"data.source": "folder"}, ["folder"]),
        ({"data.source": ""}, []),
        ({"data.source": "builtin:nothing"}, ["builtin:nothing", "python-docs"]),
        ({"data.validation": "missing.txt"}, ["missing.txt"]),
        ({"data.validation": "prose.txt"}, ["data.validation", "prose.txt"]),
        ({"data.validation_fraction": 1.5}, ["data.validation_fraction", "1.5"]),
        ({"data.seq_len": 17}, ["data.seq_len 17", "model.max_seq_len 16"]),
        ({"data.seq_len": 0}, ["data.seq_len"]),
        ({"data.max_documents": 0}, ["data.max_documents"]),
        ({"data.mixing_temperature": 0.5}, ["data.mixing_temperature is 0.5", "at least 1"]),
        ({"data.cache": "prose.txt/cache"}, ["prose.txt", "--data.cache"]),
        ({"tokenizer.kind": "char", "sample.prompt": "Grüße"}, ["sample.prompt", "ü"]),
        ({"tokenizer.kind": "bpe", "tokenizer.vocab_size": 3}, ["tokenizer.vocab_size"]),
        ({"model.vocab_size": 100}, ["model.vocab_size 100", "362"]),
        ({"train.precision": "fp16"}, ["train.precision fp16"]),
        ({"optim.head_lr": 1e-3}, ["optim.head_lr has no effect", "tied", "optim.embedding_lr"]),
        ({"train.device": "mps"}, ["train.device"]),
    ],
    ids=str,
)
def test_it_is_noticed_before_anything_is_written(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: list[str]
):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("blank.bin").write_bytes(b"\x00\xff\xfe" * 99)
    Path("tiny.txt").write_text("too short", encoding="utf-8")
    Path("prose.txt").write_text(PROSE, encoding="utf-8")
    Path("folder").mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        train(override(config, {"data.source": "prose.txt", **change}), Path("run"))
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line
    assert not Path("run").exists() and not Path("runs").exists()


def test_the_default_prompt_is_in_a_characters_vocabulary(config: RunConfig, tmp_path: Path):
    source = tmp_path / "line.txt"
    source.write_text("one line without its end " * 20, encoding="utf-8")
    run = train(override(config, {"data.source": str(source), "tokenizer.kind": "char"}), tmp_path / "run")
    prompt = load_config(run / "config.toml").sample.prompt
    assert prompt and prompt in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("out", ["file", "file/run", "full"])
def test_an_out_that_cannot_be_used_is_named(config: RunConfig, tmp_path: Path, out: str):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises((ValueError, OSError)) as caught:
        train(config, tmp_path / out)
    assert str(tmp_path / out) in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_text_of_two_windows_trains(config: RunConfig, tmp_path: Path):
    source = tmp_path / "short.txt"
    source.write_text("a text of thirty bytes, I say\n", encoding="utf-8")
    run = train(override(config, {"data.source": str(source), "train.steps": 2}), tmp_path / "run")
    assert (run / "step-000002").is_dir()


@pytest.mark.parametrize(
    ("config", "flag", "readers"),
    [
        ("gpt-nano", ["--objective.mask_rate", "0.3"], "mlm"),
        ("gpt-nano", ["--data.mixing", "equal"], "seq2seq"),
        ("bert-mini", ["--objective.span_density", "0.3"], "span"),
        ("t5-mini", ["--data.target_field", "answer"], "seq2seq"),
        ("t5-tasks", ["--data.field", "body"], "clm or mlm or span or prefix_lm or classify or reward or dpo"),
    ],
)
def test_a_flag_that_the_objective_does_not_read_is_refused(config, flag, readers, tmp_path, capsys):
    assert main(["train", config, *flag, "--out", str(tmp_path / "run")]) == 2
    assert f"{flag[0][2:]} has no effect with objective.name" in (said := capsys.readouterr().err)
    assert f"only with {readers}; leave it out" in said and not (tmp_path / "run").exists()


def test_a_temperature_for_another_way_of_mixing_is_refused(tmp_path, capsys):
    flags = ["--data.mixing", "equal", "--data.mixing_temperature", "3"]
    assert main(["train", "t5-tasks", *flags, "--out", str(tmp_path / "run")]) == 2
    assert "data.mixing_temperature has no effect with data.mixing equal; leave it out" in capsys.readouterr().err


def test_what_a_file_brings_along_for_another_objective_is_no_mistake(tmp_path):
    small = "preset = 't5-mini'\nd_model = 16\nnum_layers = 1\nnum_heads = 2\nd_ff = 16\nmax_seq_len = 16\n"
    shared = "[objective]\nname = 'seq2seq'\n[data]\nmixing = 'equal'\n[tokenizer]\nkind = 'byte'\n"
    shared += f"[model]\n{small}"
    (tmp_path / "my.toml").write_text(shared, encoding="utf-8")
    (tmp_path / "prose.txt").write_text(PROSE, encoding="utf-8")
    flags = f"--objective.name span --data {tmp_path / 'prose.txt'} --out {tmp_path / 'run'} --train.steps 1"
    assert main(["train", str(tmp_path / "my.toml"), *flags.split()]) == 0
    found = load_config(tmp_path / "run" / "config.toml")
    assert (found.objective, found.data.mixing) == (SpanConfig(), "equal")
