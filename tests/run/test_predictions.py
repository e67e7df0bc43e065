"""`minillm predict` and `predict`: texts and files in, labels with probabilities out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from minillm import load_run, predict
from minillm.cli import main
from minillm.data.datasets.labeled import LabeledTokens, read_inputs
from minillm.generation.adapters import padded

SHORT = ["--train.precision", "fp32", "--train.device", "cpu", "--optim.lr", "1e-2", "--train.global_batch", "16"]


@pytest.fixture(scope="module")
def decoder(run_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT that tells two words apart; not to be changed."""
    folder = tmp_path_factory.mktemp("decoder")
    texts = [f"{'7 and' if n % 2 else 'so it'} {n}" for n in range(80)]
    lines = [json.dumps({"text": text, "label": "seven" if text[0] == "7" else "so"}) for text in texts]
    (folder / "labels.jsonl").write_text("\n".join(lines), encoding="utf-8")
    start = ["train", "finetune-classify", "--init-from", str(run_of("gpt2")), "--data", str(folder / "labels.jsonl")]
    more = ["--train.steps", "40", "--eval.every", "0", "--data.cache", str(folder / "cache")]
    assert main([*start, *SHORT, *more, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_gpt_learns_labels_and_predicts_them(decoder: Path, capsys: pytest.CaptureFixture[str]):
    assert load_run(decoder).config.model.heads == ("class:2",) and load_run(decoder).model.writes == "nothing"
    assert main(["eval", str(decoder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["accuracy"] > 0.95 and figures["macro_f1"] > 0.95 and figures["matthews"] > 0.9
    first, second = predict(decoder, ["so it 3", "7 and 91"])
    assert first["label"] == "so" and second["label"] == "seven" and first["text"] == "so it 3"
    assert list(first["probabilities"]) == ["so", "seven"] and sum(first["probabilities"].values()) == pytest.approx(1)
    assert predict(decoder, ["so it 3"])[0]["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_gpt_reads_its_rightmost_real_token_in_a_batch_padded_on_either_side(
    decoder: Path, side: Literal["left", "right"]
):
    loaded = load_run(decoder)
    texts = ["so it 3", "7 and 91 and 92 and 93", "7", "so it is, so it is"]
    objective: Any = loaded.objective
    rows = LabeledTokens(read_inputs(texts, None, loaded.config.data), loaded.tokenizer).rows
    ids = [objective.layout.row(row)[0].tolist() for row in rows]
    tokens, valid = padded(ids, side=side, device=torch.device("cpu"))
    with torch.no_grad():
        shares = loaded.model(tokens, key_valid=valid).logits["class"].softmax(-1).tolist()
    for text, together, found in zip(texts, shares, predict(decoder, texts), strict=True):
        (alone,) = predict(decoder, [text])
        by_label = dict(zip(objective.labels, together, strict=True))
        assert found["probabilities"] == pytest.approx(by_label, abs=1e-5)
        assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_the_command_prints_lines_or_json_for_texts_and_files(
    decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["predict", str(decoder), "so it\n3", "7 and"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["so it 3", "  label: so"] and lines[2].startswith("  probabilities: so 0.") and len(lines) == 6
    assert main(["predict", str(decoder), "so it 3", "--quantize", "8", "--json"]) == 0
    printed = capsys.readouterr()
    (plain,), rounded = predict(decoder, ["so it 3"]), json.loads(printed.out)["probabilities"]["so"]
    assert "weights of 8 bits" in printed.err and rounded == pytest.approx(plain["probabilities"]["so"], abs=0.02)
    assert rounded != plain["probabilities"]["so"]
    table = tmp_path / "new.csv"
    table.write_text("body,other\nso it 5,x\n7 and 9,y\n", encoding="utf-8")
    assert main(["predict", str(decoder), "--data", str(table), "--field", "body", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["text"], one["label"]) for one in found] == [("so it 5", "so"), ("7 and 9", "seven")]


def test_mistakes_are_one_line(decoder: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def said(*arguments: object) -> str:
        assert main(["predict", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "predict needs a run with classify" in said(finished, "a text")
    assert "give either texts or --data with a file" in said(decoder)
    assert "give either texts or --data with a file" in said(decoder, "a", "--data", "b.csv")
    assert "--field names a field of --data; give --data too" in said(decoder, "a", "--field", "b")
    (tmp_path / "new.csv").write_text("body\nx\n", encoding="utf-8")
    assert "has no field 'text'; its fields are: body" in said(decoder, "--data", tmp_path / "new.csv")
    (tmp_path / "none.jsonl").write_text("\n\n", encoding="utf-8")
    assert "none.jsonl has no examples: add some" in said(decoder, "--data", tmp_path / "none.jsonl")


def test_a_setting_of_another_kind_of_label_has_no_effect(decoder: Path, capsys: pytest.CaptureFixture[str]):
    start = ["train", "finetune-classify", "--init-from", str(decoder), "--data", "x.csv"]
    assert main([*start, "--objective.kind", "number", "--objective.label-smoothing", "0.1"]) == 2
    assert "objective.label_smoothing has no effect with objective.kind number" in capsys.readouterr().err
