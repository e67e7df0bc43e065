"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no scheduler state."""

import math

from minillm.training.config import ScheduleConfig


def lr_scale(step: int, config: ScheduleConfig, total_steps: int) -> float:
    """Learning rate of `step`, counted from 1, as a fraction of the peak, in [0, 1].

    It rises linearly to 1 at `warmup_steps`.
    """
    warmup = config.warmup_steps
    if step <= warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    low = config.final_ratio
    match config.name:
        case "constant":
            return 1.0
        case "cosine":  # Loshchilov and Hutter 2017, without restarts
            return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return 1 + (low - 1) * progress
        case "wsd":  # warm-up, stable, decay: Hu et al. 2024
            decay_steps = max(1, min(round(config.decay_fraction * total_steps), total_steps - warmup))
            return 1 + (low - 1) * max(0.0, 1 - max(0, total_steps - step) / decay_steps)
        case "inverse_sqrt":  # Vaswani et al. 2017, section 5.3
            return math.sqrt(max(1, warmup) / max(1, warmup, step))
