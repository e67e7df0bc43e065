"""Steps whose loss or gradient is not finite. They are reported and not applied; several in a row end the run."""

import math
from pathlib import Path

import torch

from minillm.training.state import TrainState
from minillm.training.step import StepResult

OVERFIT = 0.7
"""The model overfits if its training loss is below this fraction of the validation loss."""
IN_A_ROW = 5
"""Training stops after this many non-finite steps in a row."""


class TrainingDiverged(ValueError):
    """Loss or gradient was not finite for several steps in a row."""


class DivergenceWatch:
    """Counts non-finite steps in a row."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        """`scaler` scales the loss in fp16; an overflow because of its scale is not divergence."""
        self.scaler, self.in_a_row = scaler, 0

    def is_bad(self, result: StepResult) -> bool:
        """Update the count; True if the step was not finite.

        fp16 overflows do not count while the loss scale, which each of them lowers, is at least 1.
        """
        if result.applied:
            self.in_a_row = 0
        elif not (self.scaler.is_enabled() and self.scaler.get_scale() >= 1):
            self.in_a_row += 1
            return True
        return False

    def give_up(self, step: int, saved_step: int | None, folder: Path) -> None:
        """Raise TrainingDiverged after IN_A_ROW bad steps; `saved_step` is the last one with a checkpoint."""
        if self.in_a_row < IN_A_ROW:
            return
        again = "there is no checkpoint yet: start again"
        if saved_step is not None:
            again = f"the last checkpoint is step {saved_step} in {folder}: continue"
        raise TrainingDiverged(
            f"{IN_A_ROW} steps in a row up to step {step} were not finite, and none was applied; "
            f"{again} with --resume and a lower optim.lr, or with train.precision fp32"
        )


def name_bad_step(step: int, result: StepResult, data: str, skipped: int) -> str:
    """The message about a non-finite step and its data."""
    return (
        f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}; not applied ({skipped} so far). "
        f"It read the {data}"
    )


def warning(state: TrainState, val_loss: float) -> str | None:
    """A warning if the model overfits or training diverges, after an evaluation that was not the best."""
    if not state.train_loss < state.start_loss and math.isfinite(state.start_loss):
        return (
            f"warning: the training loss is {state.train_loss:.3f}; it started at {state.start_loss:.3f}: training "
            "diverges. Lower optim.lr, set optim.clip to 1, or raise schedule.warmup_steps"
        )
    if state.train_loss < OVERFIT * val_loss:
        return (
            f"warning: the training loss, {state.train_loss:.3f}, is far below the validation loss, {val_loss:.3f}: "
            f"the model overfits. The best checkpoint (step {state.best_step}) is kept; train.patience stops early, "
            "and more text, more dropout or fewer steps help"
        )
    return None
