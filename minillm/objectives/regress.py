"""Regression: predict a number from a row of numbers; without hidden layers, linear regression.

The loss is the squared error of the standardized target, so that 1 is the loss of always predicting the mean, and
1 - loss is the coefficient of determination R^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.arrays import FeatureRow, FeatureRows
from minillm.data.datasets.corpus import Corpus
from minillm.nn.output import Output
from minillm.objectives.base import Batch, Predictor, Score, Setup
from minillm.objectives.features import FeatureObjective, column_scales
from minillm.settings import check


@dataclass(frozen=True, kw_only=True)
class RegressConfig:
    """Predict a number from a row of numbers."""

    name: str = "regress_numbers"
    means: tuple[float, ...] = ()
    """Mean of each column in the training data, the target last."""
    scales: tuple[float, ...] = ()
    """Standard deviation of each column in the training data, the target last."""

    def __post_init__(self) -> None:
        check("objective", self)


@dataclass(frozen=True)
class Regress(FeatureObjective):
    """Predict (target - mean) / scale."""

    target_mean: float = 0.0
    target_scale: float = 1.0

    primary: ClassVar[str] = "loss"

    @property
    def heads(self) -> tuple[str, ...]:
        return ("value",)

    @property
    def targets(self) -> dict[str, str]:
        return {"number": "value"}

    def examples(self, tokens: FeatureRows, data: DataConfig, length: int, *, training: bool) -> FeatureRows:
        """The examples unchanged; ValueError for a target that is not a number."""
        targets_of(tokens)
        return tokens

    def label(self, examples: Sequence[FeatureRow]) -> dict[str, Tensor]:
        values = [(float(example.label) - self.target_mean) / self.target_scale for example in examples]
        return {"number": torch.tensor(values, dtype=torch.float32)}

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """Sum of squared errors."""
        return {"number": Score((output.logits["value"][:, 0, 0].float() - labels["number"]).square().sum())}

    def measure(self, output: Output, batch: Batch) -> np.ndarray:
        """(B, 2) target and prediction, in the unit of the data."""
        both = torch.stack([batch.labels["number"], output.logits["value"][:, 0, 0].float()], 1).double().cpu().numpy()
        return both * self.target_scale + self.target_mean

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        """Root mean squared error, and R^2 if the targets vary."""
        squared, spread = float(np.square(measured[:, 0] - measured[:, 1]).mean()), float(measured[:, 0].var())
        return {"rmse": squared**0.5} | ({"r2": 1 - squared / spread} if spread else {})

    def baseline(self, train: Sequence[FeatureRow], rows: Sequence[FeatureRow]) -> dict[str, float]:
        """Loss of always predicting the mean of the training data."""
        targets = np.array([float(row.label) for row in rows])
        return {"mean_loss": float(np.square((targets - self.target_mean) / self.target_scale).mean())}


def build(config: RegressConfig, setup: Setup) -> Regress:
    """The objective for an MLP."""
    *means, mean = config.means
    *scales, scale = config.scales
    return Regress(0, means=tuple(means), scales=tuple(scales), target_mean=mean, target_scale=scale)


def measure_scales(config: RegressConfig, corpus: Corpus) -> RegressConfig:
    """Fill in mean and scale of each column from the data."""
    columns = np.concatenate((corpus.train.features, targets_of(corpus.train)[:, None]), 1)
    means, scales = column_scales(columns)
    return replace(config, means=means, scales=scales)


def targets_of(rows: FeatureRows) -> np.ndarray:
    """(N) the labels as numbers; ValueError for one that is none."""
    values = []
    for label, where in zip(rows.labels, rows.where, strict=True):
        try:
            values.append(float(label))
        except ValueError:
            values.append(np.nan)
        if not np.isfinite(values[-1]):
            raise ValueError(
                f"{where} has the label {label!r}, which is not a number: choose another data.label_field, or "
                "objective.name classify_numbers"
            )
    return np.array(values)


def predict_numbers(predictor: Predictor, examples: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The number that is predicted for each row of numbers."""
    objective, results = predictor.objective, []
    for row in examples:
        value = predictor.forward({"features": objective.scaled(row[None])}).logits["value"].item()
        results.append({"numbers": row.tolist(), "number": value * objective.target_scale + objective.target_mean})
    return results
