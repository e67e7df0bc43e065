"""Predicts the label, the labels or the number of a text or a pair of texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from minillm.data.datasets.labeled import Labeled, LabeledIds, LabeledTokens
from minillm.objectives.base import Predictor, Setup, TokenLossConfig
from minillm.objectives.layout import by_length
from minillm.objectives.text_labels import Classify, ClassifyMany, Regress
from minillm.objectives.text_layout import TextLayout
from minillm.settings import Only, setting

if TYPE_CHECKING:
    from minillm.data.datasets.corpus import Corpus

_LABEL: Only = {"kind": ("label",)}
_NAMED: Only = {"kind": ("label", "labels")}
PREDICT_BATCH = 32
MANY = 20
"""More decimal numbers than these are no classes."""


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TokenLossConfig):
    """Predict the label, the labels or the number of a text or a pair of texts (Devlin et al. 2019, section 4.1)."""

    name: str = "classify"
    kind: Literal["label", "labels", "number"] = setting("label")
    """What is predicted: one label, any number of labels (each by itself), or a number (regression)."""
    labels: tuple[str, ...] = setting((), only=_NAMED)
    """Names of the classes; by default those in the training data."""
    label_smoothing: float = setting(0.0, at_least=0, below=1, only=_NAMED)
    """Probability mass spread evenly over all classes (Szegedy et al. 2016); training only."""
    z_loss: float = setting(0.0, at_least=0, only=_LABEL)
    """Weight of the squared log-partition, which keeps logits small (Chowdhery et al. 2022); training only."""
    class_weights: tuple[str, ...] = setting((), only=_LABEL)
    """Weights of the classes in the training loss: a number for each label, in their order, or "balanced": inversely
    proportional to their frequencies, with mean 1 over the training examples (King and Zeng 2001)."""


KINDS = {"label": Classify, "labels": ClassifyMany, "number": Regress}


def build(config: ClassifyConfig, setup: Setup) -> Classify:
    """The objective for BERT."""
    return _build(config, setup, TextLayout.of_encoder(setup.tokenizer, setup.seq_len))


def build_causal(config: ClassifyConfig, setup: Setup) -> Classify:
    """The objective for GPT."""
    return _build(config, setup, TextLayout.of_decoder(setup.tokenizer, setup.seq_len))


def _build(config: ClassifyConfig, setup: Setup, layout: TextLayout) -> Classify:
    return KINDS[config.kind](
        setup.tokenizer.pad_id,
        config.label_smoothing,
        config.z_loss,
        layout=layout,
        labels=config.labels,
        weights=tuple(map(float, config.class_weights)),
        token_types=setup.model.num_token_types > 1,
    )


def predict(predictor: Predictor, examples: Sequence[Labeled]) -> list[dict[str, Any]]:
    """For each text its label with the probabilities of all, its labels, or its number."""
    rows = LabeledTokens(list(examples), predictor.tokenizer).rows
    results: list[dict[str, Any]] = [{} for _ in rows]
    for part in by_length([len(row.first) + len(row.second) for row in rows], PREDICT_BATCH):
        logits = predictor.forward(predictor.objective.inputs([rows[i] for i in part])).logits["class"]
        for i, own in zip(part, logits, strict=True):
            read = {"text": examples[i].text} | ({"pair": examples[i].pair} if examples[i].pair else {})
            results[i] = read | predictor.objective.result(own)
    return results


def name_labels(config: ClassifyConfig, corpus: Corpus) -> ClassifyConfig:
    """Fill in labels and class weights from the data; ValueError if they do not suit the kind of prediction."""
    if config.kind == "number":
        return config
    rows = [*corpus.train.rows, *(corpus.validation.rows if corpus.info.validation_source is None else ())]
    if not config.labels:
        config = replace(config, labels=_found(rows, corpus.info.source, config.kind))
    if config.class_weights == ("balanced",):
        seen = Counter(row.label for row in corpus.train.rows)
        missing = [label for label in config.labels if not seen[label]]
        if missing:
            raise ValueError(f"objective.class_weights balanced: no training example has the label {missing[0]!r}")
        balanced = (len(corpus.train.rows) / (len(config.labels) * seen[label]) for label in config.labels)
        config = replace(config, class_weights=tuple(f"{weight:.6g}" for weight in balanced))
    try:
        weights = [float(weight) for weight in config.class_weights]
    except ValueError:
        weights = [-1.0]
    if config.class_weights and (len(weights) != len(config.labels) or min(weights) < 0):
        raise ValueError(
            f"objective.class_weights is {list(config.class_weights)}; it must be balanced, or one number, at least 0, "
            f"for each of the {len(config.labels)} labels: {', '.join(config.labels)}"
        )
    return config


def _found(rows: Sequence[LabeledIds], source: str, kind: str) -> tuple[str, ...]:
    """The sorted labels of the data; ValueError if there are fewer than two, or if they are measurements."""
    given = {row.label for row in rows}
    labels = sorted({name for label in given for name in ((label,) if isinstance(label, str) else label)})
    if len(labels) < 2:
        raise ValueError(f"{source} has only one label, {labels[0]!r}: at least two are needed")
    if kind == "label" and len(labels) > MANY and all(map(_is_decimal, labels)):
        raise ValueError(
            f"{source} has {len(labels)} different decimal numbers as labels; to predict a number, set objective.kind "
            "to number"
        )
    return tuple(labels)


def _is_decimal(label: str) -> bool:
    return bool(re.fullmatch(r"[+-]?\d*\.\d+(e[+-]?\d+)?", label))


def majority_figures(measured: Any) -> dict[str, float]:
    """Accuracy of the most frequent training label, or the error of the mean; takes a Measurement."""
    return measured.objective.baseline(measured.train.rows, measured.tokens.rows)
