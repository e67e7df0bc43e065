"""Answers in contexts: windows, targets, the loss, the best span, the threshold, and a run from weights to answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minillm import load_config, load_run, override, predict
from minillm.cli import main
from minillm.data.config import DataConfig
from minillm.data.datasets.questions import Answer, Question, QuestionTokens
from minillm.nn.output import Output
from minillm.objectives.answer_spans import ALWAYS, best_threshold
from minillm.objectives.extract import Extract, overlap_figures
from minillm.objectives.text_layout import TextLayout
from minillm.tokenizers.byte import ByteTokenizer

CLS, SEP, PAD = 300, 301, 302
LAYOUT = TextLayout(before=(CLS,), between=(SEP,), after=(SEP,), max_len=16)
SETTINGS: dict[str, Any] = {"max_question_len": 3, "max_answer_len": 4, "null_threshold": None, "token_types": True}
EXTRACT = Extract(PAD, layout=LAYOUT, stride=4, **SETTINGS)


def questions(*examples: tuple[str, str, str]) -> QuestionTokens:
    made = [
        Question(asked, context, (Answer(answer, context.index(answer)),) if answer else (), f"line {n}", context)
        for n, (asked, context, answer) in enumerate(examples, 1)
    ]
    return QuestionTokens(made, ByteTokenizer())


def batch_of(tokens: QuestionTokens, objective: Extract = EXTRACT) -> Any:
    windows = objective.examples(tokens, DataConfig(), 16, training=True)
    return objective.collate(windows.windows, lambda row: pytest.fail("nothing is drawn"))


def test_windows_overlap_and_cover_the_context_and_the_question_is_cut():
    context = "abcdefghijklmnopqrstuvwxyz"
    (row,) = questions(("why?", context, "")).rows
    parts = [context[w.start : w.stop] for w in EXTRACT.windows(row)]
    assert parts == ["abcdefghij", "ghijklmnop", "mnopqrstuv", "stuvwxyz"]
    assert [len(EXTRACT.windows(row)) for row in questions(("why?", "abcdefghij", ""), ("?", "", "")).rows] == [1, 1]
    assert EXTRACT.describe_cuts(questions(("why?", context, ""), ("why", context, ""))) == [
        "1 of 2 questions are truncated"
    ]


def test_rows_have_the_papers_layout_and_a_window_without_the_answer_points_to_cls():
    batch = batch_of(questions(("why", "abcdefghijklm", "ijk")))
    assert batch.inputs["tokens"].tolist() == [
        [CLS, *b"why", SEP, *b"abcdefghij", SEP],
        [CLS, *b"why", SEP, *b"ghijklm", SEP, PAD, PAD, PAD],
    ]
    assert batch.inputs["token_types"].tolist() == [[0] * 5 + [1] * 11, [0] * 5 + [1] * 8 + [0] * 3]
    assert batch.labels["span"].tolist() == [[0, 0], [7, 9]], "the first window holds only a part of it"
    assert batch.counts == {"span": 2} and batch.num_tokens == 29


def test_the_loss_is_the_mean_of_start_and_end_over_the_real_tokens():
    batch = batch_of(questions(("why", "abcdefghijklm", "ijk")))
    logits = torch.randn(2, 16, 2, generator=torch.Generator().manual_seed(0))
    score = EXTRACT.loss(Output(logits, {"span": logits}), batch.labels, training=False)["span"]
    by_row = []
    for row, length, target in zip(logits, (16, 13), batch.labels["span"], strict=True):
        by_row.append(sum(F.cross_entropy(row[:length, i], target[i]) for i in (0, 1)) / 2)
    assert score.loss == pytest.approx(sum(by_row).item())  # type: ignore[union-attr]
    smooth = replace(EXTRACT, label_smoothing=0.1).loss(Output(logits, {"span": logits}), batch.labels, training=True)
    expected = sum(
        F.cross_entropy(row[:length, i], target[i], label_smoothing=0.1) / 2
        for row, length, target in zip(logits, (16, 13), batch.labels["span"], strict=True)
        for i in (0, 1)
    )
    assert smooth["span"].loss == pytest.approx(expected.item())  # type: ignore[union-attr]


def sure(batch: Any, spans: list[tuple[int, int]], null: list[float]) -> Output:
    """Logits with one span and a score of no answer for each window."""
    logits = torch.full((*batch.inputs["tokens"].shape, 2), -5.0)
    for row, (start, end), score in zip(logits, spans, null, strict=True):
        row[start, 0] = row[end, 1] = 2.0
        row[0] = score / 2
    return Output(logits, {"span": logits})


def test_the_best_window_answers_and_the_lowest_null_score_counts():
    tokens = questions(("why", "abcdefghijklm", "ijk"), ("why", "n op", ""))
    batch = batch_of(tokens)
    measured = EXTRACT.measure(sure(batch, [(5, 12), (7, 9), (6, 7)], [9.0, -1.0, 9.0]), batch)
    assert measured is not None
    assert measured[:, 0].tolist() == [0, 0, 1] and measured[1, 2:].tolist() == [4.0, 1.0, 1.0, 0.0]
    assert measured[0, 2] < 4.0, "a span of eight tokens is longer than allowed"
    figures = EXTRACT.figures(measured)
    assert figures["exact_match"] == figures["f1"] == 1.0 and -5 < figures["null_threshold"] < 5
    never = replace(EXTRACT, null_threshold=ALWAYS).figures(measured)
    assert never == {"exact_match": 0.5, "f1": 0.5}
    always = replace(EXTRACT, null_threshold=-ALWAYS).figures(measured)
    assert always == {"exact_match": 0.5, "f1": 0.5}


def test_a_window_without_context_has_no_answer_and_does_not_stop():
    batch = batch_of(questions(("why", "", "")))
    measured = EXTRACT.measure(sure(batch, [(0, 0)], [0.0]), batch)
    assert measured is not None and EXTRACT.figures(measured)["f1"] == 1.0


def test_the_threshold_maximizes_f1():
    margin, f1, none = np.array([3.0, -2.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0, 0.5]), np.array([1.0, 0.0, 1.0, 0.0])
    assert 0 < best_threshold(margin, f1, none) < 1
    assert best_threshold(margin, f1, 0 * none) == ALWAYS
    assert best_threshold(margin, 0 * f1, 1 + 0 * none) < -2


def test_baselines_are_no_answer_and_the_sentence_most_like_the_question():
    tokens = questions(("Who saw the cat?", "A dog ran. Anna saw the cat.", "Anna"), ("Why?", "Rain fell.", ""))
    measured: Any = SimpleNamespace(tokens=tokens)
    assert overlap_figures(measured) == {"no_answer_f1": 0.5, "best_sentence_f1": 0.5}


@pytest.fixture(scope="module")
def reader(run_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that finds the last word of a sum; not to be changed."""
    folder = tmp_path_factory.mktemp("reader")
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for n in range(150):
            context = f"so it is. {n} and {n} make" if n % 3 else f"so it is. {n} and so"
            record = {"question": "what ends it", "context": context, "answers": "make" if n % 3 else ""}
            file.write(json.dumps(record) + "\n")
    start = ["train", "finetune-extract", "--init-from", str(run_of("bert")), "--data", str(folder / "train.jsonl")]
    more = ["--train.steps", "60", "--optim.lr", "1e-2", "--schedule.warmup-steps", "3", "--train.precision", "fp32"]
    rest = ["--eval.every", "30", "--train.device", "cpu", "--data.cache", str(folder / "cache")]
    assert main([*start, *more, *rest, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_reader_answers_with_characters_and_knows_when_there_is_no_answer(
    reader: Path, capsys: pytest.CaptureFixture[str]
):
    assert isinstance(load_config(reader / "config.toml").objective.null_threshold, float)
    assert main(["eval", str(reader), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact_match"] > 0.8 and found["f1"] > found["best_sentence_f1"] and "null_threshold" not in found
    context = "so  it is.\r\n57 and 57 make"
    (result,) = predict(reader, ["what ends it", context])
    assert context[result["start"] : result["end"]] == result["answer"] == "make" and result["score"] > 0
    assert predict(reader, ["what ends it", "so it is. 57 and so"])[0]["answer"] == ""


def test_a_long_context_is_read_to_its_end(reader: Path):
    loaded = load_run(reader)
    always = replace(loaded, config=override(loaded.config, {"objective.null_threshold": ALWAYS}))
    context = "so it is. and " * loaded.config.model.max_seq_len + "57 and 57 make"
    (result,) = predict(always, ["what ends it", context])
    assert len(context) - result["start"] < 20 and result["answer"] == "make"


def test_a_run_can_be_resumed_after_the_threshold_was_chosen(reader: Path, tmp_path: Path):
    import shutil

    shutil.copytree(reader, tmp_path / "run")
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--train.steps", "61"]) == 0
