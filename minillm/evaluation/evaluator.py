"""Loss over a fixed set of batches, and the input of other measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from minillm.distributed.runtime import Runtime
from minillm.objectives.base import IGNORE_INDEX, Batch, Objective
from minillm.training.config import Recipe
from minillm.training.evaluation import Evaluation
from minillm.training.precision import Compute

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class LossEvaluator:
    """The trainer's Evaluator: the loss over `batches`."""

    batches: Callable[[], Iterable[Batch]]
    """Returns this rank's share, the same in each call."""
    objective: Objective
    compute: Compute
    runtime: Runtime
    token_bytes: Tensor
    """(V,) bytes of each id, on the device."""

    def __call__(self, model: nn.Module) -> Evaluation:
        rest: Any = {"compute": self.compute, "runtime": self.runtime, "token_bytes": self.token_bytes}
        return evaluate(model, self.batches(), self.objective, **rest)


@dataclass(frozen=True)
class RunParts:
    """What an ObjectiveSpec's own source of batches, or its own evaluator, is built from."""

    model: Any
    """The plain module that is trained."""
    tokenizer: Tokenizer
    objective: Any
    examples: Any
    """Those to train on, or to evaluate on."""
    recipe: Recipe
    compute: Compute
    runtime: Runtime
    folder: Path | None
    """The run folder; None for an evaluation outside training."""
    scorer: Callable[[str], Callable[[Sequence[str]], Sequence[float]]]
    """Path of a run -> function that scores texts with its model."""


@dataclass(frozen=True)
class Measurement:
    """Input of the baselines and evaluators of an ObjectiveSpec."""

    model: Any
    """With weights in fp32; `precision.for_decoding` casts them."""
    tokenizer: Tokenizer
    objective: Any
    compute: Compute
    tokens: Any
    """The evaluation data."""
    train: Any
    """The training split; None if the data is not the validation split of the run."""
    batches: Callable[[], Iterable[Batch]]
    """Returns batches of all `tokens`."""


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
    """Evaluate `model`, whose mode is restored; ValueError if there are no targets.

    Args:
        model: the plain module, not its data-parallel wrapper: ranks may hold different numbers of batches.
        batches: this rank's share; `runtime` sums over ranks.
        token_bytes: (V,) bytes of each id, on the device.
    """
    was_training = model.training
    model.eval()
    names = list(objective.targets)
    loss_sums, counts, correct = ({name: 0.0 for name in names} for _ in range(3))
    num_bytes = 0
    rows: list[np.ndarray] = []
    for batch in batches:
        batch = batch.to(compute.device)
        with compute.autocast():
            output = model(**batch.inputs)
        for name, score in objective.loss(output, batch.labels, training=False).items():
            loss_sums[name] += score.loss.item()
            counts[name] += batch.counts[name]
            correct[name] += math.nan if score.correct is None else score.correct.item()
            if objective.covers_text:
                labels = batch.labels[name]
                num_bytes += int(token_bytes[labels[labels != IGNORE_INDEX]].sum())
        if (measured := objective.measure(output, batch)) is not None:
            rows.append(measured)
    model.train(was_training)
    totals = iter(runtime.sum([*loss_sums.values(), *counts.values(), *correct.values(), num_bytes]))
    evaluation = Evaluation(
        {name: next(totals) for name in names},
        {name: int(next(totals)) for name in names},
        {name: int(right) for name in names if math.isfinite(right := next(totals))},
        int(next(totals)) if objective.covers_text else None,
        objective.primary,
    )
    rows = runtime.gather(rows)
    if rows:
        evaluation = replace(evaluation, task=objective.figures(np.concatenate(rows)))
    if not evaluation.targets:
        raise ValueError("the validation text has no token to predict; raise data.validation_fraction")
    return evaluation
