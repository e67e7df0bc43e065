"""Classification of images and of rows of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.arrays import FeatureRow, FeatureRows
from minillm.data.datasets.corpus import Corpus
from minillm.data.sources.images import open_image
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, Predictor, RowRNG, Setup, TokenLossConfig
from minillm.settings import setting


@dataclass(frozen=True, kw_only=True)
class ImageClassConfig(TokenLossConfig):
    """Predict the class of an image."""

    name: str = "classify_images"
    labels: tuple[str, ...] = ()
    """Names of the classes; by default those in the training data."""
    shift: int = setting(0, at_least=0)
    """Training images are shifted by up to this many pixels, a new random shift each time they are read."""
    turn: float = setting(0.0, at_least=0, at_most=180)
    """Training images are turned by up to this many degrees, a new random angle each time they are read."""
    background: int = setting(255, at_least=0, at_most=255)
    """Median gray value of the edges of the training images, from the data; `minillm predict` inverts an image whose
    edges are on the other side."""


@dataclass(frozen=True, kw_only=True)
class NumberClassConfig(TokenLossConfig):
    """Predict the class of a row of numbers; with a model without hidden layers, this is logistic regression."""

    name: str = "classify_numbers"
    labels: tuple[str, ...] = ()
    """Names of the classes; by default those in the training data."""
    means: tuple[float, ...] = ()
    """Mean of each column in the training data; subtracted from the input."""
    scales: tuple[float, ...] = ()
    """Standard deviation of each column in the training data; the input is divided by it."""


@dataclass(frozen=True)
class FeatureObjective(CrossEntropyObjective):
    """Predict the class of an array of numbers, (x - mean) / scale."""

    labels: tuple[str, ...] = ()
    means: tuple[float, ...] = (127.5,)
    scales: tuple[float, ...] = (127.5,)
    """One value for all numbers, or one for each column."""
    shift: int = 0
    turn: float = 0.0
    shape: tuple[int, ...] = ()
    background: int = 0

    primary: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "examples"

    @property
    def heads(self) -> tuple[str, ...]:
        return (f"class:{len(self.labels)}",)

    @property
    def targets(self) -> dict[str, str]:
        return {"class": "class"}

    def examples(self, tokens: FeatureRows, data: DataConfig, length: int, *, training: bool) -> FeatureRows:
        """The examples unchanged; ValueError for a label that the run does not have."""
        for label, where in zip(tokens.labels, tokens.where, strict=True):
            if label not in self.labels:
                raise ValueError(
                    f"{where} has the label {label!r}, which the training data lacks; "
                    f"the labels are {', '.join(self.labels)}"
                )
        return replace(tokens, training=training)

    def collate(self, examples: Sequence[FeatureRow], rng: RowRNG) -> Batch:
        """features (B, *shape) fp32, labels (B)."""
        features = self.scaled(np.stack([example.features for example in examples]))
        if (self.shift or self.turn) and examples[0].training:
            features = moved(features, [rng(i) for i in range(len(examples))], self.shift, self.turn)
        (name,) = self.targets
        return Batch({"features": features}, self.label(examples), {name: len(examples)}, len(examples))

    def label(self, examples: Sequence[FeatureRow]) -> dict[str, Tensor]:
        """The label set of a batch."""
        return {"class": torch.tensor([self.labels.index(example.label) for example in examples])}

    def scaled(self, features: np.ndarray) -> Tensor:
        """(features - mean) / scale in fp32."""
        means, scales = np.array(self.means), np.array(self.scales)
        return torch.from_numpy(((features - means) / scales).astype(np.float32))

    def baseline(self, train: Sequence[FeatureRow], rows: Sequence[FeatureRow]) -> dict[str, float]:
        """Accuracy of always predicting the most frequent training label."""
        label, _ = Counter(row.label for row in train).most_common(1)[0]
        return {"most_frequent_accuracy": sum(row.label == label for row in rows) / len(rows)}

    def prompt(self, example: Any, decode: Decode) -> str:
        return ""


def moved(images: Tensor, rngs: Sequence[np.random.Generator], shift: int, turn: float) -> Tensor:
    """Images (B, C, height, width), each shifted by whole pixels and turned about its center at random.

    A turned image is interpolated between pixels. What comes in from outside repeats the edge.
    """
    (height, width), thetas = images.shape[2:], []
    for rng in rngs:
        down, right = rng.integers(-shift, shift + 1, 2)
        angle = np.deg2rad(rng.uniform(-turn, turn))
        sin, cos = np.sin(angle), np.cos(angle)  # grid_sample's coordinates are -1 to 1 on each axis
        thetas.append([[cos, -sin * height / width, 2 * right / width], [sin * width / height, cos, 2 * down / height]])
    theta = torch.tensor(np.array(thetas), dtype=images.dtype)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def build_images(config: ImageClassConfig, setup: Setup) -> FeatureObjective:
    """The objective for images; pixels 0 to 255 become -1 to 1."""
    images = {"shift": config.shift, "turn": config.turn, "background": config.background}
    loss = (config.label_smoothing, config.z_loss)
    return FeatureObjective(0, *loss, config.labels, shape=setup.model.input_shape, **images)


def build_numbers(config: NumberClassConfig, setup: Setup) -> FeatureObjective:
    """The objective for rows of numbers."""
    return FeatureObjective(0, config.label_smoothing, config.z_loss, config.labels, config.means, config.scales)


def name_image_classes(config: ImageClassConfig, corpus: Corpus) -> ImageClassConfig:
    """Fill in the labels and the background from the data."""
    images = corpus.train.features
    edges = np.concatenate([images[..., [0, -1], :].ravel(), images[..., [0, -1]].ravel()])
    return replace(config, labels=config.labels or class_names(corpus), background=int(np.median(edges)))


def name_number_classes(config: NumberClassConfig, corpus: Corpus) -> NumberClassConfig:
    """Fill in the labels, and mean and scale of each column, from the data."""
    means, scales = column_scales(corpus.train.features)
    return replace(config, labels=config.labels or class_names(corpus), means=means, scales=scales)


def column_scales(columns: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column (N, F); 1 for a column whose values are all the same."""
    scales = columns.std(0)
    return tuple(columns.mean(0).tolist()), tuple(np.where(scales > 0, scales, 1.0).tolist())


def class_names(corpus: Corpus) -> tuple[str, ...]:
    """The labels in the data, numbers in their order; ValueError if there are fewer than two."""
    names = set(corpus.train.labels) | (set() if corpus.info.validation_source else set(corpus.validation.labels))
    if len(names) < 2:
        raise ValueError(f"{corpus.info.source} has only one label, {min(names)!r}: at least two are needed")
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))


def predict_images(predictor: Predictor, examples: Sequence[Path]) -> list[dict[str, Any]]:
    """The label of each image file and the probabilities of all labels.

    An image is scaled to the size that the model reads. If its edges are as bright as those of the training images were
    dark, or the other way around, it is inverted.
    """
    objective, results = predictor.objective, []
    channels, height, width = objective.shape
    for path in examples:
        pixels = open_image(path, (height, width), color=channels == 3)
        edge = int(np.median(np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])))
        inverted = abs(255 - edge - objective.background) < abs(edge - objective.background)
        pixels = 255 - pixels if inverted else pixels
        pixels = pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
        found = class_probabilities(predictor, pixels) | ({"inverted": True} if inverted else {})
        results.append({"image": str(path), **found})
    return results


def predict_numbers(predictor: Predictor, examples: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The label of each row of numbers and the probabilities of all labels."""
    return [{"numbers": row.tolist(), **class_probabilities(predictor, row)} for row in examples]


def class_probabilities(predictor: Predictor, features: np.ndarray) -> dict[str, Any]:
    """The most likely label of one example and the probabilities of all, largest first."""
    objective = predictor.objective
    logits = predictor.forward({"features": objective.scaled(features[None])}).logits["class"]
    pairs = zip(objective.labels, logits.softmax(-1)[0].tolist(), strict=True)
    ranked = dict(sorted(pairs, key=lambda pair: -pair[1]))
    return {"label": next(iter(ranked)), "probabilities": ranked}
