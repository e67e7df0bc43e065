"""Steps whose loss or gradient is not finite: they are never applied; each is named, and several in a row end a run."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from minillm.training.state import TrainState
from minillm.training.step import StepResult

OVERFIT = 0.7
"""Training loss as a share of the validation loss below which the model recites rather than generalizes."""
IN_A_ROW = 5
"""Steps in a row that are not finite after which training stops."""


class TrainingDiverged(ValueError):
    """Loss or gradient stayed non-finite; nothing of it was applied."""


class DivergenceWatch:
    """Counts the steps in a row that were not finite."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        """`scaler` scales the loss of an fp16 run: too high a scale is no divergence."""
        self.scaler = scaler
        self.in_a_row = 0

    def is_bad(self, result: StepResult) -> bool:
        """Count a step; whether it was not finite. One that fp16's loss scale explains is not counted: every such run
        has some, the scale has just been lowered, and below 1 it explains nothing.
        """
        if result.applied:
            self.in_a_row = 0
        elif not (self.scaler.is_enabled() and self.scaler.get_scale() >= 1):
            self.in_a_row += 1
            return True
        return False

    def give_up(self, step: int, saved_step: int | None, folder: Path) -> None:
        """Raise TrainingDiverged if `step` was one too many; `saved_step` is the last that has a checkpoint."""
        if self.in_a_row < IN_A_ROW:
            return
        again = "there is no checkpoint yet: start again"
        if saved_step is not None:
            again = f"the last checkpoint is step {saved_step} in {folder}: go on from it"
        raise TrainingDiverged(
            f"{IN_A_ROW} steps in a row up to step {step} were not finite, and none was applied; "
            f"{again} with --resume and a lower optim.lr, or with train.precision fp32"
        )


def name_bad_step(step: int, result: StepResult, data: str, skipped: int) -> str:
    """The line that names a bad step and its data."""
    return (
        f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}; not applied ({skipped} so far). "
        f"It read the {data}"
    )


def warning(state: TrainState, val_loss: float) -> str | None:
    """What to say of an evaluation that was not the best: that the model overfits or diverges, if it does."""
    if not state.train_loss < state.start_loss and math.isfinite(state.start_loss):
        return (
            f"warning: the training loss is {state.train_loss:.3f}, and it began at {state.start_loss:.3f}: training "
            "diverges. Lower optim.lr, set optim.clip to 1, or raise schedule.warmup_steps"
        )
    if state.train_loss < OVERFIT * val_loss:
        return (
            f"warning: the training loss, {state.train_loss:.3f}, is far below the validation loss, {val_loss:.3f}: "
            f"the model overfits. The best checkpoint (step {state.best_step}) is kept; train.patience stops early, "
            "and more text, more dropout or fewer steps help"
        )
    return None
