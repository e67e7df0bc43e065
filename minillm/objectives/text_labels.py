"""Classification and regression of texts and of pairs of texts (Devlin et al. 2019, section 4.1; Radford et al. 2018).

An encoder reads `[CLS] A [SEP] B [SEP]` and predicts from [CLS]. A decoder reads `A SEP B` and predicts from
its last real token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.labeled import LabeledIds, LabeledTokens
from minillm.nn.output import Output
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, RowRNG, Score
from minillm.objectives.layout import pad
from minillm.objectives.scores import f1, macro_f1, matthews, pearson, spearman
from minillm.objectives.text_layout import TextLayout


@dataclass(frozen=True, kw_only=True)
class Classify(CrossEntropyObjective):
    """Predict one label; the base class of the other kinds."""

    layout: TextLayout
    labels: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    """Weight of each class in the training loss; empty: all 1."""
    token_types: bool = False
    """Whether the model has token types."""

    label_set: ClassVar[str] = "class"
    primary: ClassVar[str] = "accuracy"

    @property
    def heads(self) -> tuple[str, ...]:
        return (f"class:{len(self.labels)}",)

    @property
    def targets(self) -> dict[str, str]:
        return {self.label_set: "class"}

    def examples(self, tokens: LabeledTokens, data: DataConfig, length: int, *, training: bool) -> LabeledTokens:
        """The examples unchanged; ValueError for a label that the run does not have."""
        for row in tokens.rows:
            self.target(row)
        return tokens

    def target(self, row: LabeledIds) -> Any:
        """The target of an example; ValueError if the run does not have it."""
        if isinstance(row.label, tuple):
            raise ValueError(f"{row.where} has a list of labels; to predict several, set objective.kind to labels")
        return self.index(row.label, row.where)

    def index(self, label: str, where: str) -> int:
        """The class of a label; ValueError if the run does not have it."""
        if label not in self.labels:
            raise ValueError(
                f"{where} has the label {label!r}, which the training data lacks; "
                f"the labels are {', '.join(self.labels)}"
            )
        return self.labels.index(label)

    def inputs(self, examples: Sequence[LabeledIds]) -> dict[str, Tensor]:
        """tokens, key_valid if any row is padded, and token_types, all (B, T)."""
        rows, types = zip(*map(self.layout.row, examples), strict=True)
        tokens, valid = pad(rows, self.pad_id, round_below=self.layout.max_len)
        inputs = {"tokens": tokens}
        if not valid.all():
            inputs["key_valid"] = valid
        if self.token_types:
            inputs["token_types"] = pad(types, 0, round_below=self.layout.max_len)[0]
        return inputs

    def collate(self, examples: Sequence[LabeledIds], rng: RowRNG) -> Batch:
        """The inputs, and the targets of the examples."""
        inputs, labels = self.inputs(examples), torch.tensor([self.target(example) for example in examples])
        real = inputs["key_valid"].sum() if "key_valid" in inputs else inputs["tokens"].numel()
        return Batch(inputs, {self.label_set: labels}, {self.label_set: labels.numel()}, int(real))

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        if not (training and self.weights):
            return super().loss(output, labels, training=training)
        logits, wanted = output.logits["class"].float(), labels["class"]
        weights = wanted.new_tensor(self.weights, dtype=torch.float32)[wanted]  # (B)
        losses = F.cross_entropy(logits, wanted, reduction="none", label_smoothing=self.label_smoothing)
        losses = losses + self.z_loss * logits.logsumexp(-1).square()
        return {"class": Score((losses * weights).sum())}

    def measure(self, output: Output, batch: Batch) -> np.ndarray | None:
        """(B, 2) target and prediction."""
        return torch.stack([batch.labels["class"], output.logits["class"].argmax(-1)], 1).cpu().numpy()

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        both, number = (measured[:, 0], measured[:, 1]), len(self.labels)
        return {"macro_f1": macro_f1(*both, number), "matthews": matthews(*both, number)}

    def result(self, logits: Tensor) -> dict[str, Any]:
        """What `minillm predict` shows for the logits (C) of a text."""
        shares = logits.softmax(-1)
        return {"label": self.labels[int(shares.argmax())], "probabilities": self.named(shares)}

    def named(self, numbers: Tensor) -> dict[str, float]:
        """Label -> its number, largest first."""
        pairs = zip(self.labels, numbers.tolist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def baseline(self, train: Sequence[LabeledIds], rows: Sequence[LabeledIds]) -> dict[str, float]:
        """Accuracy of always predicting the most frequent training label."""
        label, _ = Counter(row.label for row in train).most_common(1)[0]
        return {"most_frequent_accuracy": sum(row.label == label for row in rows) / len(rows)}

    def prompt(self, example: Any, decode: Decode) -> str:
        return ""

    def describe_cuts(self, tokens: LabeledTokens) -> list[str]:
        """The number of truncated examples."""
        cut = sum(len(row.first) + len(row.second) > self.layout.room(row) for row in tokens.rows)
        longer = f"{cut:,} of {len(tokens):,} examples are longer than {self.layout.max_len} tokens and are truncated"
        return [longer] if cut else []


class ClassifyMany(Classify):
    """Predict for each label by itself whether a text has it; the loss is binary cross-entropy."""

    label_set: ClassVar[str] = "labels"
    primary: ClassVar[str] = "micro_f1"

    def target(self, row: LabeledIds) -> list[float]:
        """1 for each label that the example has, else 0."""
        names = (row.label,) if isinstance(row.label, str) else row.label
        wanted = {self.index(name, row.where) for name in names}
        return [float(c in wanted) for c in range(len(self.labels))]

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """Label smoothing moves the targets 0 and 1 towards 1/2."""
        logits, wanted = output.logits["class"].float(), labels["labels"]  # (B, C)
        smoothing = self.label_smoothing if training else 0.0
        smooth = wanted * (1 - smoothing) + smoothing / 2
        total = F.binary_cross_entropy_with_logits(logits, smooth, reduction="sum")
        return {"labels": Score(total, None if training else ((logits > 0) == (wanted > 0.5)).sum())}

    def measure(self, output: Output, batch: Batch) -> np.ndarray:
        """(B, 2C) targets and predictions."""
        return torch.cat([batch.labels["labels"] > 0.5, output.logits["class"] > 0], 1).cpu().numpy()

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        wanted, predicted = np.split(measured, 2, axis=1)  # (N, C)
        correct = wanted & predicted
        occurs = np.flatnonzero((wanted | predicted).any(0))
        by_class = [f1(correct[:, c].sum(), predicted[:, c].sum(), wanted[:, c].sum()) for c in occurs]
        return {
            "exact_match": float((wanted == predicted).all(1).mean()),
            "micro_f1": float(f1(correct.sum(), predicted.sum(), wanted.sum())),
            "macro_f1": float(np.mean(by_class)) if by_class else 0.0,
        }

    def baseline(self, train: Sequence[LabeledIds], rows: Sequence[LabeledIds]) -> dict[str, float]:
        """Micro F1 of always predicting the labels that most training examples have, or the most frequent one."""
        shares = np.mean([self.target(row) for row in train], axis=0)
        chosen = shares >= min(0.5, shares.max())
        wanted = np.array([self.target(row) for row in rows]) > 0.5
        return {"most_frequent_micro_f1": f1((wanted & chosen).sum(), len(rows) * chosen.sum(), wanted.sum())}

    def result(self, logits: Tensor) -> dict[str, Any]:
        shares = self.named(logits.sigmoid())
        return {"labels": [name for name, share in shares.items() if share > 0.5], "probabilities": shares}


class Regress(Classify):
    """Predict a number; the loss is the squared error."""

    label_set: ClassVar[str] = "number"
    primary: ClassVar[str] = "pearson"

    @property
    def heads(self) -> tuple[str, ...]:
        return ("class:1",)

    def target(self, row: LabeledIds) -> float:
        try:
            number = float(row.label)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise ValueError(f"{row.where} has the label {row.label!r}, which is not a number; correct it")
        return number

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        return {"number": Score((output.logits["class"][:, 0].float() - labels["number"]).square().sum())}

    def measure(self, output: Output, batch: Batch) -> np.ndarray:
        """(B, 2) target and prediction."""
        return torch.stack([batch.labels["number"], output.logits["class"][:, 0].float()], 1).double().cpu().numpy()

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        wanted, predicted = measured.T
        return {"pearson": pearson(wanted, predicted), "spearman": spearman(wanted, predicted)}

    def baseline(self, train: Sequence[LabeledIds], rows: Sequence[LabeledIds]) -> dict[str, float]:
        """Squared error of always predicting the mean of the training examples."""
        mean = np.mean([self.target(row) for row in train])
        return {"mean_loss": float(np.mean([(self.target(row) - mean) ** 2 for row in rows]))}

    def result(self, logits: Tensor) -> dict[str, Any]:
        return {"number": logits.item()}
