"""Results of an evaluation: sums over all batches and ranks, from which the averages are computed last."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

ACCURACIES = {"lm": "token_accuracy", "class": "accuracy", "tag": "accuracy"}
"""Label set -> the name of its accuracy; others are called `<label set>_accuracy`."""


@dataclass(frozen=True)
class Evaluation:
    """Sums over the targets of each label set, and the figures computed from them."""

    loss_sums: dict[str, float]
    """Negative log-likelihood in nats."""
    counts: dict[str, int]
    """Number of targets."""
    correct: dict[str, int]
    """Number of targets that were the most likely prediction, for label sets whose targets are classes."""
    num_bytes: int | None = None
    """UTF-8 bytes of the targets, 0 for special tokens; None if the targets are not the text itself."""
    primary: str = "loss"
    """As `Objective.primary`."""
    task: dict[str, float] = field(default_factory=dict)
    """Figures of the objective's task, such as the F1 of entities."""
    baselines: dict[str, float] = field(default_factory=dict)
    """Figures of simple baselines."""
    notes: tuple[str, ...] = ()
    """What was skipped in the data, one line each."""
    more: dict[str, Any] = field(default_factory=dict)
    """Results of the objective's slow evaluators, if requested."""
    samples: tuple[dict[str, Any], ...] = ()
    """Some of the model's outputs, for samples.jsonl."""

    @property
    def losses(self) -> dict[str, float]:
        """Nats per target of each label set; 0 if it has no targets."""
        return {name: total / max(1, self.counts[name]) for name, total in self.loss_sums.items()}

    @property
    def loss(self) -> float:
        """The training objective: nats per target, summed over the label sets."""
        return sum(self.losses.values())

    @property
    def accuracies(self) -> dict[str, float]:
        """Share of correct predictions in each label set; 0 if it has no targets."""
        return {name: right / max(1, self.counts[name]) for name, right in self.correct.items()}

    @property
    def targets(self) -> int:
        """Number of targets in all label sets."""
        return sum(self.counts.values())

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite on overflow."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text, comparable between tokenizers and with compressors; None if `num_bytes` is."""
        if self.num_bytes is None:
            return None
        return sum(self.loss_sums.values()) / math.log(2) / self.num_bytes

    def figures(self) -> dict[str, float]:
        """Bits per byte; or if undefined, the accuracy of each label set, its loss if there are several sets, and the
        figures of the task.
        """
        if self.bits_per_byte is not None:
            return {"bits_per_byte": self.bits_per_byte}
        several = self.losses if len(self.losses) > 1 else {}
        accuracies = {ACCURACIES.get(name, f"{name}_accuracy"): share for name, share in self.accuracies.items()}
        return {f"{name}_loss": loss for name, loss in several.items()} | accuracies | self.task

    @property
    def value(self) -> float:
        """The primary figure."""
        return self.loss if self.primary == "loss" else self.figures()[self.primary]

    def beats(self, best: float | None) -> bool:
        """Whether the primary figure is better than `best`. Any number is better than None; NaN is never better."""
        if math.isnan(self.value):
            return False
        return best is None or (self.value < best if self.primary == "loss" else self.value > best)

    def describe(self) -> str:
        """Loss and figures on one line."""
        if self.bits_per_byte is not None:
            figures = [
                f"perplexity {self.perplexity:{'.2f' if self.perplexity < 1e9 else '.3g'}}",
                f"{self.bits_per_byte:.4f} bits per byte",
            ]
        else:
            figures = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.figures().items()]
        return ", ".join([f"loss {self.loss:.4f}", *figures])


class Evaluator(Protocol):
    """Evaluates a model, always on the same data."""

    def __call__(self, model: nn.Module) -> Evaluation:
        """Evaluate the plain module, not its data-parallel wrapper: ranks may hold different numbers of batches."""
        ...
