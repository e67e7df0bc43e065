"""The contract between data, model and loss: a Batch, and the Objective that makes and scores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.nn.output import Output
from minillm.objectives.cross_entropy import IGNORE_INDEX as IGNORE_INDEX
from minillm.objectives.cross_entropy import CrossEntropySum

RowRNG = Callable[[int], np.random.Generator]
"""Random numbers of a row of the micro-batch; a function of (seed, step, row) alone."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch: what the model reads, what it should predict, and how many targets that is."""

    inputs: dict[str, Tensor]
    """Exactly the arguments of model.forward."""
    labels: dict[str, Tensor]
    """One tensor of target ids for each label set, IGNORE_INDEX where there is no target."""
    counts: dict[str, int]
    """Targets in each label set, known before any forward pass."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {k: t.to(device, non_blocking=True) for k, t in tensors.items()}

        return Batch(move(self.inputs), move(self.labels), self.counts)


class Objective(Protocol):
    """Chooses what is to be predicted; the trainer knows no more of it than this."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Output fields that the model must have."""
        ...

    @property
    def label_sets(self) -> tuple[str, ...]:
        """Names of the label sets of every batch."""
        ...

    @property
    def covers_text(self) -> bool:
        """Whether the targets are the text itself, each token once; then bits per byte mean something."""
        ...

    @property
    def guessable(self) -> str | None:
        """Label set whose targets are a sample of the text's tokens, so that a guess by frequency alone is the
        score to beat; None: there is none.
        """
        ...

    def collate(self, examples: Sequence[Any], rng: RowRNG) -> Batch:
        """Examples, token rows of any length or what the objective's own data set gives, to one batch; on the CPU,
        with no state.
        """
        ...

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        """Loss SUMS in fp32, one for each label set; the trainer divides by the step's global counts."""
        ...

    def correct(self, output: Output, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many targets of each label set are the model's likeliest answer."""
        ...


def cross_entropy_sum(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Sum over the targets of -log p(label), in nats, fp32.

    Args:
        logits: (..., V), any floating dtype.
        labels: (...) ids, IGNORE_INDEX where there is no target.
        label_smoothing: mass spread evenly over the vocabulary.
        z_loss: weight of log(Z)^2, added for each target.
    """
    loss = CrossEntropySum.apply(logits.flatten(0, -2), labels.flatten(), label_smoothing, z_loss)
    assert isinstance(loss, Tensor)
    return loss


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many targets are the likeliest answer. logits (..., V), labels (...), IGNORE_INDEX where there is none."""
    return (logits.argmax(-1) == labels).sum()
