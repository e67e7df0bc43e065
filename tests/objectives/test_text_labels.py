"""One label with weights, several labels, and numbers: targets, losses and figures against torch and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.labeled import Labeled, LabeledIds, LabeledTokens
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.objectives.base import Setup
from minillm.objectives.classify import ClassifyConfig, build_causal, name_labels
from minillm.objectives.text_labels import Classify, ClassifyMany, Regress
from minillm.objectives.text_layout import TextLayout
from minillm.tokenizers.byte import ByteTokenizer

LABELS = ("cat", "dog", "owl")
LAYOUT = TextLayout(before=(91,), between=(92,), after=(92,), max_len=12)
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [1.5, 0.3, 0.9], [-1.0, 4.0, 2.0]])
OUTPUT = Output(LOGITS, {"class": LOGITS})


def rows(*labels: Any) -> list[LabeledIds]:
    ids = np.array([1, 2, 3])
    return [LabeledIds(ids, ids[:0], label, f"file line {n}") for n, label in enumerate(labels, 1)]


def targets(objective: Classify, *labels: Any) -> dict[str, Tensor]:
    return objective.collate(rows(*labels), lambda row: pytest.fail("nothing is drawn")).labels


def evaluated(objective: Classify, *labels: Any, output: Output = OUTPUT) -> dict[str, float]:
    batch = objective.collate(rows(*labels), lambda row: pytest.fail("nothing is drawn"))
    measured = objective.measure(output, batch)
    assert measured is not None
    return objective.figures(measured)


def test_class_weights_and_smoothing_change_the_training_loss_as_in_torch_and_no_other():
    one = Classify(90, 0.1, layout=LAYOUT, labels=LABELS, weights=(0.5, 2.0, 1.0))
    labels = targets(one, "cat", "dog", "owl", "dog")
    each = F.cross_entropy(LOGITS, labels["class"], reduction="none", label_smoothing=0.1)
    expected = (each * torch.tensor([0.5, 2.0, 1.0, 2.0])).sum()
    assert one.loss(OUTPUT, labels, training=True)["class"].loss == pytest.approx(expected.item())
    plain = F.cross_entropy(LOGITS, labels["class"], reduction="sum")
    assert one.loss(OUTPUT, labels, training=False)["class"].loss == pytest.approx(plain.item())


def test_figures_of_one_label_are_scikit_learns():
    found = evaluated(Classify(90, layout=LAYOUT, labels=LABELS), "cat", "dog", "owl", "owl")
    wanted, predicted = [0, 1, 2, 2], LOGITS.argmax(-1).tolist()
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(wanted, predicted, average="macro"))
    assert found["matthews"] == pytest.approx(metrics.matthews_corrcoef(wanted, predicted))


def test_several_labels_have_binary_cross_entropy_and_f1():
    many = ClassifyMany(90, 0.2, layout=LAYOUT, labels=LABELS)
    given = [("cat", "owl"), (), "dog", ("dog", "owl")]
    labels = targets(many, *given)
    wanted = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert torch.equal(labels["labels"], wanted)
    score = many.loss(OUTPUT, labels, training=False)["labels"]
    assert score.loss == pytest.approx(F.binary_cross_entropy_with_logits(LOGITS, wanted, reduction="sum").item())
    assert score.correct is not None and score.correct.item() == ((LOGITS > 0) == (wanted > 0)).sum().item()
    smooth = F.binary_cross_entropy_with_logits(LOGITS, wanted * 0.8 + 0.1, reduction="sum")
    assert many.loss(OUTPUT, labels, training=True)["labels"].loss == pytest.approx(smooth.item())
    found, predicted = evaluated(many, *given), LOGITS > 0
    for average in ("micro", "macro"):
        expected = metrics.f1_score(wanted, predicted, average=average, zero_division=0.0)  # type: ignore[arg-type]
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["exact_match"] == pytest.approx(metrics.accuracy_score(wanted, predicted))
    assert many.result(LOGITS[2])["labels"] == ["cat", "owl", "dog"], "the most likely first"


def test_a_number_has_a_squared_error_and_correlations():
    regress = Regress(90, layout=LAYOUT)
    labels = targets(regress, "1.5", "-2", "0", "4")
    output = Output(LOGITS, {"class": LOGITS[:, :1]})
    expected = (LOGITS[:, 0] - torch.tensor([1.5, -2, 0, 4])).square().sum()
    assert regress.loss(output, labels, training=True)["number"].loss == pytest.approx(expected.item())
    found = evaluated(regress, "1.5", "-2", "0", "4", output=output)
    assert found["pearson"] == pytest.approx(np.corrcoef(LOGITS[:, 0], [1.5, -2, 0, 4])[0, 1], abs=1e-6)
    assert regress.heads == ("class:1",) and regress.result(torch.tensor([0.25])) == {"number": 0.25}


@pytest.mark.parametrize(
    ("objective", "label", "message"),
    [
        (Classify(90, layout=LAYOUT, labels=LABELS), ("cat", "dog"), "line 1 has a list of labels; .* objective.kind"),
        (ClassifyMany(90, layout=LAYOUT, labels=LABELS), ("cat", "cow"), "line 1 has the label 'cow'"),
        (Regress(90, layout=LAYOUT), "many", "line 1 has the label 'many', which is not a number"),
        (Regress(90, layout=LAYOUT), "nan", "line 1 has the label 'nan', which is not a number"),
        (Regress(90, layout=LAYOUT), ("1", "2"), "line 1 has the label .*, which is not a number"),
    ],
)
def test_a_label_of_another_kind_raises_with_its_row(objective: Classify, label: Any, message: str):
    tokens = LabeledTokens([Labeled("a", "", label, "file line 1", "a")], ByteTokenizer())
    with pytest.raises(ValueError, match=message):
        objective.examples(tokens, DataConfig(), 12, training=True)


def corpus(*labels: Any) -> Any:
    split = SimpleNamespace(rows=rows(*labels))
    return SimpleNamespace(
        train=split, validation=SimpleNamespace(rows=[]), info=SimpleNamespace(source="x", validation_source=None)
    )


def test_balanced_weights_have_the_mean_one_over_the_training_examples():
    config = name_labels(ClassifyConfig(class_weights=("balanced",)), corpus("a", "a", "a", "b"))
    assert config.class_weights == ("0.666667", "2")
    assert name_labels(config, corpus("a", "b")) == config, "a resumed run keeps them"


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({"class_weights": ("1", "2", "3")}, ("a", "b"), "one number, at least 0, for each of the 2 labels: a, b"),
        ({"class_weights": ("heavy", "2")}, ("a", "b"), "must be balanced, or one number"),
        ({"class_weights": ("balanced",), "labels": ("a", "z")}, ("a", "a"), "no training example has the label 'z'"),
        ({}, [f"{n}.5" for n in range(30)], "30 different decimal numbers as labels; .* objective.kind to number"),
    ],
)
def test_settings_that_do_not_suit_the_labels_raise(settings: Any, labels: Any, message: str):
    with pytest.raises(ValueError, match=message):
        name_labels(ClassifyConfig(**settings), corpus(*labels))


def test_a_decoder_reads_the_rightmost_real_token_so_a_batch_equals_its_rows():
    shape: dict[str, Any] = {"d_model": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 400, "max_seq_len": 12}
    model = build_model(ModelConfig(**shape, heads=("class:3",))).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    setup = Setup(model.config, ByteTokenizer(), 12, DataConfig())
    causal = build_causal(ClassifyConfig(labels=LABELS), setup)
    tokens = LabeledTokens([Labeled(text, pair, "dog", "", "") for text, pair in TEXTS], ByteTokenizer())
    rows = causal.inputs(tokens.rows)
    assert rows["tokens"][1].tolist()[:4] == [*b"x", ByteTokenizer().sep_id, *b"yz"]
    assert not rows["key_valid"][1, 4:].any()
    with torch.no_grad():
        together = model(**rows).logits["class"]
        apart = [model(**causal.inputs([row])).logits["class"] for row in tokens.rows]
    torch.testing.assert_close(together, torch.cat(apart))


TEXTS = [("a longer text than fits", ""), ("x", "yz"), ("ab", "")]
