"""The contract between data, model and loss: a Batch, and the Objective that makes and scores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.nn.kernels.cross_entropy import IGNORE_INDEX as IGNORE_INDEX
from minillm.nn.kernels.cross_entropy import cross_entropy_sum as cross_entropy_sum
from minillm.nn.output import Output

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


def plain_cross_entropy_sum(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """The definition of `cross_entropy_sum`, which nn/kernels/cross_entropy.py computes in less memory."""
    log_z = logits.logsumexp(-1)  # log p(v) = logits_v - log_z
    of_label = log_z - logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    of_uniform = log_z - logits.mean(-1)
    loss = (1 - label_smoothing) * of_label + label_smoothing * of_uniform + z_loss * log_z.square()
    return loss.masked_fill(labels == IGNORE_INDEX, 0.0).sum()


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many targets are the likeliest answer. logits (..., V), labels (...), IGNORE_INDEX where there is none."""
    return (logits.argmax(-1) == labels).sum()
