"""Classification: the layout of texts and pairs, its labels, and a run from a BERT's weights to its accuracy."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from minillm import evaluate, load_config, load_run
from minillm.cli import main
from minillm.data.config import DataConfig
from minillm.data.datasets.labeled import Labeled, LabeledIds, LabeledTokens
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.objectives.base import Batch
from minillm.objectives.classify import ClassifyConfig, majority_figures, name_labels
from minillm.objectives.text_labels import Classify
from minillm.objectives.text_layout import TextLayout
from minillm.tokenizers.byte import ByteTokenizer
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics

PAD, CLS, SEP = 90, 91, 92
LABELS = ("cat", "dog", "owl")
TEXT, PAIR = ([1, 2, 3], []), ([1, 2, 3], [4, 5])


def objective(**settings: Any) -> Classify:
    layout = TextLayout(before=(CLS,), between=(SEP,), after=(SEP,), max_len=settings.pop("max_len", 12))
    return Classify(PAD, **{"layout": layout, "labels": LABELS, **settings})


def example(texts: tuple[list[int], list[int]], label: str = "dog") -> LabeledIds:
    first, second = (np.array(text, np.uint16) for text in texts)
    return LabeledIds(first, second, label, "labels.csv line 2")


def collate(objective: Classify, *examples: LabeledIds) -> Batch:
    return objective.collate(examples, lambda row: pytest.fail("classify draws nothing"))


def tokens(*labels: str) -> LabeledTokens:
    rows = [Labeled(f"text {n}", "", label, f"labels.csv line {n + 2}", "") for n, label in enumerate(labels)]
    return LabeledTokens(rows, ByteTokenizer())


def test_a_text_and_a_pair_have_the_papers_layout():
    batch = collate(objective(token_types=True), example(TEXT), example(PAIR, "owl"))
    assert batch.inputs["tokens"].tolist() == [
        [CLS, 1, 2, 3, SEP, PAD, PAD, PAD],
        [CLS, 1, 2, 3, SEP, 4, 5, SEP],
    ]
    assert batch.inputs["token_types"].tolist() == [[0] * 8, [0, 0, 0, 0, 0, 1, 1, 1]]
    assert batch.inputs["key_valid"].tolist() == [[True] * 5 + [False] * 3, [True] * 8]
    assert batch.labels["class"].tolist() == [1, 2] and batch.counts == {"class": 2} and batch.num_tokens == 13


def test_without_token_types_none_are_passed_and_a_full_batch_has_no_mask():
    assert list(collate(objective(), example(PAIR), example(PAIR)).inputs) == ["tokens"]


def test_a_batch_equals_its_examples_one_by_one():
    shape = {"family": "bert", "d_model": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 93, "max_seq_len": 12}
    model = build_model(ModelConfig(**shape, num_token_types=2, heads=("class:3",))).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    one = objective(token_types=True)
    examples = [example(TEXT, "cat"), example(PAIR), example(([7] * 30, [8] * 3), "owl")]
    with torch.no_grad():
        together, *apart = (
            one.loss(model(**batch.inputs), batch.labels, training=False)["class"].loss
            for batch in (collate(one, *examples), *(collate(one, e) for e in examples))
        )
    torch.testing.assert_close(together, torch.stack(apart).sum())


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (([1] * 10, []), (10, 0)),  # [CLS] and one [SEP] beside it
        (([1] * 11, []), (10, 0)),
        (([1] * 4, [2] * 5), (4, 5)),
        (([1] * 30, [2] * 2), (7, 2)),
        (([1] * 2, [2] * 30), (2, 7)),
        (([1] * 30, [2] * 30), (4, 5)),
        (([1] * 6, [2] * 5), (4, 5)),
    ],
    ids=str,
)
def test_the_longer_text_is_truncated_until_both_fit(texts: Any, kept: tuple[int, int]):
    row = collate(objective(), example(texts)).inputs["tokens"][0].tolist()
    assert (row.count(1), row.count(2)) == kept and len(row) <= 12
    assert row[0] == CLS and row[-1] == SEP and row.count(SEP) == (2 if texts[1] else 1)


def test_only_truncated_examples_are_reported():
    known = tokens(*LABELS)
    known.rows = [
        example(([1] * 10, [])),
        example(([1] * 11, [])),
        example(([1] * 4, [2] * 5)),
        example(([1] * 9, [2])),
    ]
    assert objective().describe_cuts(known) == ["2 of 4 examples are longer than 12 tokens and are truncated"]
    assert objective(max_len=13).describe_cuts(known) == []


def test_an_unknown_label_raises_with_its_row():
    with pytest.raises(
        ValueError, match=r"labels\.csv line 3 has the label 'cow', which .* the labels are cat, dog, owl$"
    ):
        objective().examples(tokens("cat", "cow"), DataConfig(), 12, training=False)
    assert len(objective().examples(tokens("cat", "owl"), DataConfig(), 12, training=True)) == 2


def corpus(train: LabeledTokens, validation: LabeledTokens, source: str | None = None) -> Any:
    return SimpleNamespace(
        train=train, validation=validation, info=SimpleNamespace(source="x", validation_source=source)
    )


def test_labels_default_to_the_sorted_labels_of_the_data():
    found = name_labels(ClassifyConfig(), corpus(tokens("b", "a", "b"), tokens("a", "c")))
    assert found.labels == ("a", "b", "c"), "a rare one may be among those split off"
    held_out = name_labels(ClassifyConfig(), corpus(tokens("b", "a", "b"), tokens("a", "c"), "other.csv"))
    assert held_out.labels == ("a", "b")
    chosen = ClassifyConfig(labels=("z", "a"))
    assert name_labels(chosen, corpus(tokens("a"), tokens("a"))) == chosen


def test_a_single_label_raises():
    with pytest.raises(ValueError, match=r"x has only one label, 'a': at least two are needed"):
        name_labels(ClassifyConfig(), corpus(tokens("a", "a"), tokens("a")))


def test_the_baseline_predicts_the_most_frequent_training_label():
    splits = {"train": tokens("a", "a", "b"), "tokens": tokens("b", "b", "b", "a")}
    measured: Any = SimpleNamespace(objective=objective(), **splits)
    assert majority_figures(measured) == {"most_frequent_accuracy": 0.25}


def test_accuracy_is_the_share_of_correct_texts():
    logits = torch.tensor([[3.0, 0, 0], [0, 0, 3], [0, 3, 0]])
    output = Output(logits, {"class": logits})
    score = objective().loss(output, {"class": torch.tensor([0, 1, 1])}, training=False)["class"]
    assert score.correct is not None and score.correct.item() == 2


SHORT = ["--train.precision", "fp32", "--train.device", "cpu", "--data.seq-len", "24", "--optim.lr", "3e-3"]


def labeled(path: Path, *, count: int = 120, text: str = "text", label: str = "label") -> Path:
    """Sums whose label is the word that they begin with, four in five of them "big"."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([text, label])
        for n in range(count):
            kind = "small" if n % 5 == 0 else "big"
            table.writerow([f"{'7 and' if kind == 'small' else 'so it'} {n}", kind])
    return path


@pytest.fixture(scope="session")
def classifier(run_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained from a BERT's weights; not to be changed."""
    folder = tmp_path_factory.mktemp("classifier")
    source = labeled(folder / "labels.csv")
    start = ["train", "--init-from", str(run_of("bert")), "--objective.name", "classify", "--data", str(source), *SHORT]
    more = ["--train.steps", "120", "--eval.every", "5", "--save.keep", "99", "--data.cache", str(folder / "cache")]
    assert main([*start, *more, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_classifier_from_a_berts_weights(classifier: Path, capsys: pytest.CaptureFixture[str]):
    config = load_config(classifier / "config.toml")
    assert config.objective.labels == ("big", "small") and config.model.heads == ("class:2",)
    assert 'labels = [\n    "big",\n    "small",\n]' in (classifier / "config.toml").read_text(encoding="utf-8")
    assert main(["eval", str(classifier), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] > 0.95 and "perplexity" not in found and "bits_per_byte" not in found
    labels = Counter(row.label for row in _validation(classifier).rows)
    assert found["most_frequent_accuracy"] == labels["big"] / labels.total() and found["targets"] == labels.total()
    assert 0 < labels["small"] / labels.total() < 0.5


def _validation(run: Path) -> LabeledTokens:
    from minillm.distributed.runtime import Runtime
    from minillm.run.build import prepare_corpus

    loaded = load_run(run)
    return prepare_corpus(loaded.config, loaded.tokenizer, Runtime()).validation


def test_the_best_checkpoint_is_the_first_of_the_highest_accuracy(classifier: Path):
    lines = [line for line in read_metrics(classifier / "metrics.jsonl") if "val_loss" in line]
    best = max(lines, key=lambda line: line["accuracy"])
    state = checkpoints(classifier)[-1].state.train
    assert (state.best_step, state.best_value) == (best["step"], best["accuracy"])
    assert load_run(classifier).checkpoint.step == best["step"]
    by_loss = min(lines, key=lambda line: line["val_loss"])
    assert by_loss["step"] != best["step"], "else this shows nothing"


def test_another_file_with_other_fields_is_measured(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = labeled(tmp_path / "other.csv", count=40, text="body", label="kind")
    assert main(["eval", str(classifier), "--data", str(other), "--json"]) == 2
    assert "has no field 'text'" in capsys.readouterr().err
    fields = ["--field", "body", "--label-field", "kind"]
    assert main(["eval", str(classifier), "--data", str(other), *fields, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] > 0.9 and found["targets"] == 40 and "most_frequent_accuracy" not in found
    again = evaluate(classifier, other, fields={"field": "body", "label_field": "kind"})
    assert again.figures()["accuracy"] == found["accuracy"]
    other.write_text("text,label\nso it 1,big\nso it 2,huge\n", encoding="utf-8")
    assert main(["eval", str(classifier), "--data", str(other)]) == 2
    assert "other.csv line 3 has the label 'huge', which the training data lacks" in capsys.readouterr().err


def test_a_classifier_neither_writes_text_nor_fills_gaps(classifier: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sample", str(classifier), "--prompt", "7 and"]) == 2
    assert f'minillm predict {classifier} "A text"\n' in capsys.readouterr().err
    assert main(["fill", str(classifier), "7 [MASK]"]) == 2
    assert f"predicts no tokens; instead: minillm predict {classifier}" in capsys.readouterr().err


def test_a_pretrained_pooler_is_used_and_the_class_layer_is_newly_initialized(
    run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parent, source = run_of("bert"), labeled(tmp_path / "labels.csv")
    cache = ["--data.cache", str(tmp_path / "cache")]
    start = ["train", "--train.precision", "fp32", "--train.device", "cpu", "--train.steps", "1", *cache, "--init-from"]
    pairs = ["--objective.next_sentence", "true", "--model.num_token_types", "2", "--data"]
    (tmp_path / "documents").mkdir()
    for n in range(30):
        (tmp_path / "documents" / f"{n}.txt").write_text(f"{n} and {n} make {2 * n}. " * 4, encoding="utf-8")
    assert main([*start, str(parent), *pairs, str(tmp_path / "documents"), "--out", str(tmp_path / "pairs")]) == 0
    capsys.readouterr()
    classify = ["--objective.name", "classify", "--data", str(source), "--out", str(tmp_path / "classes")]
    assert main([*start, str(tmp_path / "pairs"), *classify]) == 0
    said = capsys.readouterr().err
    assert "newly initialized: heads.class.proj.bias, heads.class.proj.weight\n" in said
    pooler = load_run(tmp_path / "pairs").model.heads["pair"].pooler.weight
    adopted = load_run(tmp_path / "classes" / "step-000000").model.heads["class"].pooler.weight
    assert torch.equal(adopted, pooler)


def test_a_file_with_a_single_label_raises(
    run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = tmp_path / "same.csv"
    source.write_text("text,label\n" + "".join(f"so it {n},big\n" for n in range(30)), encoding="utf-8")
    start = ["train", "--init-from", str(run_of("bert")), "--objective.name", "classify", "--data", str(source)]
    assert main([*start, "--out", str(tmp_path / "run")]) == 2
    assert "same.csv has only one label, 'big': at least two are needed" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.toml").exists()


SENTIMENT = next((p / "shared/data/sentiment" for p in Path(__file__).parents if (p / "shared/data").is_dir()), None)


@pytest.mark.skipif(SENTIMENT is None, reason="needs the sentences of ../shared/data/sentiment")
def test_real_sentences_have_two_labels_and_train(run_of: Callable[[str], Path], tmp_path: Path, capsys):
    assert SENTIMENT is not None
    start = ["train", "--init-from", str(run_of("bert")), "--objective.name", "classify", "--train.steps", "2"]
    data = ["--data", str(SENTIMENT / "train.jsonl"), "--data.validation", str(SENTIMENT / "test.jsonl")]
    more = ["--data.max-documents", "200", "--train.device", "cpu", "--data.cache", str(tmp_path / "cache")]
    assert main([*start, *data, *more, "--out", str(tmp_path / "run")]) == 0
    assert load_config(tmp_path / "run" / "config.toml").objective.labels == ("negative", "positive")
    assert "most frequent accuracy 0." in capsys.readouterr().err
