"""What a run counts while it trains, and how it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class TrainState:
    """Counters that a checkpoint carries; everything random is a function of (seed, step) and needs no state."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Training time so far, without evaluation and saving."""
    skipped: int = 0
    """Steps that were not finite and not applied."""
    best_loss: float = math.inf
    best_step: int | None = None
    """Step of the best evaluation; None before the first."""
    stale: int = 0
    """Evaluations since the best one."""
    train_loss: float = math.inf
    """Running mean of the training loss, for the warning about overfitting."""
    start_loss: float = math.inf
    """Training loss of the first step."""
    examples: int | None = None
    """Training examples read so far, over all ranks; None in runs of older versions."""
    best_value: float | None = None
    """Primary figure of the best evaluation; None before the first, and in runs of older versions."""

    @property
    def best(self) -> float | None:
        """Primary figure of the best evaluation; older versions knew the loss alone."""
        return self.best_value if self.best_value is not None or self.best_step is None else self.best_loss


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    state: TrainState
    reason: str
    """finished, interrupted, or early (no better validation loss for train.patience evaluations)."""
