"""One training loop, and its optimizers, schedules, checkpoints and metrics."""
