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
        ("roberta", "classify", LABELED, "RobertaForSequenceClassification", ["7 and 7"]),
        ("roberta", "tag", TAGGED, "RobertaForTokenClassification", ["so 7 it"]),
        ("roberta", "extract", ASKED, "RobertaForQuestionAnswering", ["what", "so 7 it is"]),
        ("distilbert", "tag", TAGGED, "DistilBertForTokenClassification", ["so 7 it"]),
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


@pytest.mark.parametrize("base", ["bert", "roberta", "gpt2"])
def test_pairs_are_read_from_their_field_to_the_export(
    tuned, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pairs = [{"text": f"{n} and", "other": f"make {n + n % 2}", "label": "no" if n % 2 else "yes"} for n in range(20)]
    run = tuned(base, "classify", pairs, "--data.pair_field", "other")
    capsys.readouterr()
    assert main(["eval", str(run), "--data", str(tmp_path / "data.jsonl"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["targets"] == 20 and {"accuracy", "macro_f1", "matthews"} <= figures.keys()

    (found,), (first, swapped) = predict(run, ["7 and", "make 8"]), predict(run, ["7 and", "make 8", "make 8", "7 and"])
    assert found["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)
    assert first["probabilities"] != swapped["probabilities"], "the order matters"
    assert (first["text"], first["pair"]) == ("7 and", "make 8")
    of_file = predict(run, source=tmp_path / "data.jsonl")
    assert [(one["text"], one["pair"]) for one in of_file] == [(one["text"], one["other"]) for one in pairs]
    assert main(["predict", str(run), "7 and"]) == 2
    assert "this run reads pairs of texts, so give two texts for each; there are 1" in capsys.readouterr().err

    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    theirs: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    inputs = tokenizer("7 and", "make 8", return_tensors="pt")
    if base == "gpt2":  # it reads A SEP B, for which transformers has no layout
        own = load_run(run).tokenizer
        first_ids, second_ids = (own.encode(text).tolist() for text in ("7 and", "make 8"))
        inputs = {"input_ids": torch.tensor([[*first_ids, own.sep_id, *second_ids]])}
    with torch.no_grad():
        shares = theirs(**inputs).logits[0].softmax(-1).tolist()
    expected = {theirs.config.id2label[i]: share for i, share in enumerate(shares)}
    assert first["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_a_pipeline_of_transformers_predicts_the_same(tuned, tmp_path: Path):
    run = tuned("bert", "classify", LABELED)
    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "hf"), top_k=None)
    scored: Any = pipeline(["7 and 7"])
    expected = {one["label"]: one["score"] for one in scored[0]}
    (found,) = predict(run, ["7 and 7"])
    assert found["probabilities"] == pytest.approx(expected, abs=1e-5)
