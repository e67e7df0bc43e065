"""Fine-tuned runs as folders of transformers, and back: the same labels and predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minillm import LoadedRun, load_run, predict
from minillm.cli import main

SHORT = ["--train.precision", "fp32", "--train.device", "cpu", "--train.steps", "2", "--eval.every", "0"]


@pytest.fixture
def tuned(run_of: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    def make(base: str, recipe: str, records: list[dict[str, object]], *more: str) -> Path:
        source = tmp_path / "data.jsonl"
        source.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        start = ["train", f"finetune-{recipe}", "--init-from", str(run_of(base)), "--data", str(source), *SHORT, *more]
        assert main([*start, "--data.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]) == 0
        return tmp_path / "run"

    return make


LABELED = [{"text": f"{n} and {n}", "label": "odd" if n % 2 else "even"} for n in range(12)]
TAGGED = [{"words": ["so", f"{n}", "it"], "tags": ["O", "B-N", "O"]} for n in range(12)]
ASKED = [{"question": "what", "context": f"so {n} it is", "answers": "it"} for n in range(12)]


def in_fp32(run: Path) -> LoadedRun:
    """An imported run would compute in bf16 where that is fast."""
    loaded = load_run(run, device="cpu")
    return replace(loaded, compute=replace(loaded.compute, dtype=torch.float32))


@pytest.mark.parametrize(
    ("base", "recipe", "records", "architecture", "inputs"),
    [
        ("gpt2", "classify", LABELED, "GPT2ForSequenceClassification", ["7 and 7"]),
        ("llama", "classify", LABELED, "LlamaForSequenceClassification", ["7 and 7"]),
        ("bert", "classify", LABELED, "BertForSequenceClassification", ["7 and 7"]),
        ("bert", "tag", TAGGED, "BertForTokenClassification", ["so 7 it"]),
        ("gpt2", "tag", TAGGED, "GPT2ForTokenClassification", ["so 7 it"]),
        ("bert", "extract", ASKED, "BertForQuestionAnswering", ["what", "so 7 it is"]),
    ],
)
def test_a_fine_tuned_run_goes_to_transformers_and_back(
    tuned, base, recipe, records, architecture, inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tuned(base, recipe, records)
    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    assert "checked with transformers" in capsys.readouterr().out
    settings = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert settings["architectures"] == [architecture]
    if recipe != "extract":
        labels = load_run(run).config.objective.labels
        assert [settings["id2label"][str(i)] for i in range(len(labels))] == list(labels)
    assert main(["import", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    (before,), (after,) = predict(run, inputs), predict(in_fp32(tmp_path / "back"), inputs)
    assert before.keys() == after.keys()
    if recipe == "classify":
        assert before["probabilities"] == pytest.approx(after["probabilities"], abs=1e-5)
    elif recipe == "tag":
        assert [e["start"] for e in before["entities"]] == [e["start"] for e in after["entities"]]
    else:
        assert before["score"] == pytest.approx(after["score"], abs=1e-4)


def test_a_pipeline_of_transformers_predicts_the_same(tuned, tmp_path: Path):
    run = tuned("bert", "classify", LABELED)
    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "hf"), top_k=None)
    scored: Any = pipeline(["7 and 7"])
    expected = {one["label"]: one["score"] for one in scored[0]}
    (found,) = predict(run, ["7 and 7"])
    assert found["probabilities"] == pytest.approx(expected, abs=1e-5)
