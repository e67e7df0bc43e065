"""What a run shows of itself while it trains: a prompt from the validation text, unless the user gives one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from minillm import RunConfig, load_config, override, preset, train
from minillm.cli import main

CHINESE = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽雲騰致雨露結為霜金生麗水玉出崑岡"
_SMALL = """
--model.d-model 16 --model.num-layers 1 --model.num-heads 2 --model.num-kv-heads 1 --model.d-ff 32
--model.max-seq-len 24 --train.steps 1 --train.device cpu
--train.precision fp32 --sample.max-new-tokens 2 --train.global-batch 2
"""
SMALL = _SMALL.split()


@pytest.fixture
def chinese(tmp_path: Path) -> Path:
    """A text in which no letter of the Latin alphabet occurs."""
    path = tmp_path / "zh.txt"
    path.write_text("".join(CHINESE[i % 40 :] + CHINESE[: i % 7] + "。\n" for i in range(60)), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_a_text_without_latin_letters_trains_without_a_prompt(
    chinese: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
):
    cache = ["--data.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    vocabulary = ["--tokenizer.vocab-size", "400"] if kind == "bpe" else []
    assert main(["train", "--data", str(chinese), "--tokenizer.kind", kind, *vocabulary, *SMALL, *cache]) == 0
    prompt = load_config(tmp_path / "run" / "config.toml").sample.prompt
    assert prompt and prompt in chinese.read_text(encoding="utf-8"), "the beginning of the validation text"
    assert f"  | {prompt.splitlines()[0]}" in capsys.readouterr().err


def records(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompt_of(config: RunConfig, tmp_path: Path, shape: str, changes: dict[str, Any]) -> str:
    """The prompt that a run of this shape chooses for itself."""
    held_out = {"data.validation": str(changes.pop("validation"))} if "validation" in changes else {}
    small = {"model.d_model": 16, "model.num_layers": 1, "model.num_heads": 2, "model.max_seq_len": 48}
    small |= {"tokenizer.kind": "byte", "train.steps": 1, "train.precision": "fp32", "train.device": "cpu"}
    here = {"data.source": config.data.source, "data.cache": config.data.cache, **held_out}
    run = train(override(RunConfig(model=preset(shape)), small | here | changes), tmp_path / "run")
    return load_config(run / "config.toml").sample.prompt or ""


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    path = tmp_path / "validation.txt"
    path.write_text("Thank you for inviting me to your party last week. " * 9, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("shape", "changes", "expected"),
    [
        ("gpt2", {}, "Thank you"),
        ("bert-tiny", {"objective.name": "mlm"}, "Thank you [MASK]nvitin"),
        ("t5-mini", {"objective.name": "span", "model.d_ff": 16}, "Thank you <|extra_id_0|>inviti"),
        ("t5-mini", {"objective.name": "prefix_lm", "model.d_ff": 16}, "Thank you"),
        ("gpt2", {"objective.name": "prefix_lm"}, "Thank you"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_prompt_is_the_beginning_of_the_validation_text_as_the_objective_reads_it(
    config: RunConfig,
    tmp_path: Path,
    validation: Path,
    capsys: pytest.CaptureFixture[str],
    shape: str,
    changes: dict[str, Any],
    expected: str,
):
    assert prompt_of(config, tmp_path, shape, {**changes, "validation": validation}) == expected
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"  | {expected}")]
    assert len(shown) == 2, "at the last evaluation and at the end"


def test_pairs_of_passages_and_tasks_show_an_example_of_theirs(config: RunConfig, tmp_path: Path):
    texts = [{"text": f"{n} and {n} make {2 * n}; so it is. " * 3} for n in range(30)]
    pairs = {"data.source": str(records(tmp_path / "texts.jsonl", texts)), "objective.next_sentence": True}
    (tmp_path / "pairs").mkdir()
    found = prompt_of(config, tmp_path / "pairs", "bert-tiny", {**pairs, "objective.name": "mlm"})
    assert re.fullmatch(r"[\w; ]+ \[MASK\].+", found)
    tasks = [{"input": f"count: {n}", "target": f"{n + 1}"} for n in range(30)]
    source = {"data.source": str(records(tmp_path / "tasks.jsonl", tasks)), "model.d_ff": 16}
    (tmp_path / "tasks").mkdir()
    found = prompt_of(config, tmp_path / "tasks", "t5-mini", {**source, "objective.name": "seq2seq"})
    assert found in {task["input"] for task in tasks}


def test_short_documents_bring_no_special_tokens_into_the_prompt(config: RunConfig, tmp_path: Path):
    for shape, changes in {
        "gpt2": {},
        "bert-tiny": {"objective.name": "mlm"},
        "t5-mini": {"objective.name": "span", "model.d_ff": 16},
    }.items():
        source = records(tmp_path / "short.jsonl", [{"text": f"so {n}"} for n in range(60)])
        (tmp_path / shape).mkdir()
        found = prompt_of(config, tmp_path / shape, shape, {"data.source": str(source), **changes})
        assert found.startswith("so ")
        assert not re.search(r"endoftext|eos|</s>", found.lower()), found


def test_a_prompt_of_the_users_own_is_kept(config: RunConfig, tmp_path: Path, validation: Path):
    assert prompt_of(config, tmp_path, "gpt2", {"validation": validation, "sample.prompt": "My own"}) == "My own"


def test_a_prompt_that_cannot_be_encoded_is_refused_before_anything_is_said(
    chinese: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["train", "--data", str(chinese), "--tokenizer.kind", "char", "--sample.prompt", "Hi"]
    assert main([*command, "--data.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert "sample.prompt 'Hi' cannot be used: " in line and "'H'" in line and not out
    assert not (tmp_path / "run").exists()
