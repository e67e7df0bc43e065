"""Loss over a fixed set of batches: sums first, ratios last."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minillm.distributed.runtime import Runtime
from minillm.evaluation.unigram_baseline import UnigramBaseline
from minillm.objectives.base import IGNORE_INDEX, Batch, Objective
from minillm.training.precision import Compute


@dataclass(frozen=True)
class Evaluation:
    """Sums over the targets of each label set, and what is derived from them."""

    loss_sums: dict[str, float]
    """Negative log-likelihood in nats."""
    counts: dict[str, int]
    """Targets."""
    correct: dict[str, int]
    """Targets that were the model's likeliest answer."""
    num_bytes: int | None = None
    """UTF-8 bytes that the targets stand for, special tokens for none; None where they are not the text itself."""
    guess: UnigramBaseline | None = None
    """What guessing by frequency alone scores, where that is the thing to beat."""

    @property
    def losses(self) -> dict[str, float]:
        """Nats per target of each label set; 0 for one that has none."""
        return {name: total / max(1, self.counts[name]) for name, total in self.loss_sums.items()}

    @property
    def loss(self) -> float:
        """What training minimises: nats per target, summed over the label sets."""
        return sum(self.losses.values())

    @property
    def accuracies(self) -> dict[str, float]:
        """Share of right answers in each label set; 0 for one that has no target."""
        return {name: right / max(1, self.counts[name]) for name, right in self.correct.items()}

    @property
    def targets(self) -> int:
        """Targets of all label sets."""
        return sum(self.counts.values())

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits to encode a byte of the text: comparable between tokenizers, and with compressors; None where the
        targets are not the text.
        """
        if self.num_bytes is None:
            return None
        return sum(self.loss_sums.values()) / math.log(2) / self.num_bytes

    def figures(self) -> dict[str, float]:
        """Bits per byte, or where there are none the accuracy of each label set, and its loss if there are several."""
        if self.bits_per_byte is not None:
            return {"bits_per_byte": self.bits_per_byte}
        several = self.losses if len(self.losses) > 1 else {}
        accuracies = {f"{name}_accuracy": share for name, share in self.accuracies.items()}
        return {f"{name}_loss": loss for name, loss in several.items()} | accuracies

    def describe(self) -> str:
        """Loss and figures on one line."""
        if self.bits_per_byte is not None:
            figures = [f"perplexity {self.perplexity:.2f}", f"{self.bits_per_byte:.4f} bits per byte"]
        else:
            figures = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.figures().items()]
        return ", ".join([f"loss {self.loss:.4f}", *figures])


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    *,
    compute: Compute,
    runtime: Runtime,
    token_bytes: Tensor,
) -> Evaluation:
    """Evaluate `model`, leaving it in the mode it was in.

    Args:
        model: the plain module, not its data-parallel wrapper: ranks may hold different numbers of batches.
        batches: this rank's share.
        objective: scores each batch.
        compute: device and arithmetic.
        runtime: sums over ranks.
        token_bytes: (V,) bytes of each id, on the device.

    Raises:
        ValueError: there is nothing to evaluate on.
    """
    was_training = model.training
    model.eval()
    names = objective.label_sets
    loss_sums, counts, correct = ({name: 0.0 for name in names} for _ in range(3))
    num_bytes = 0
    for batch in batches:
        batch = batch.to(compute.device)
        with compute.autocast():
            output = model(**batch.inputs)
        sums, right = objective.loss(output, batch.labels, training=False), objective.correct(output, batch.labels)
        for name in names:
            loss_sums[name] += sums[name].item()
            counts[name] += batch.counts[name]
            correct[name] += right[name].item()
            if objective.covers_text:
                labels = batch.labels[name]
                num_bytes += int(token_bytes[labels[labels != IGNORE_INDEX]].sum())
    model.train(was_training)
    totals = iter(runtime.sum([*loss_sums.values(), *counts.values(), *correct.values(), num_bytes]))
    found = Evaluation(
        {name: next(totals) for name in names},
        {name: int(next(totals)) for name in names},
        {name: int(next(totals)) for name in names},
        int(next(totals)) if objective.covers_text else None,
    )
    if not found.targets:
        raise ValueError("the validation text has no token to predict; raise data.validation_fraction")
    return found
