"""Training progress: a bar on a terminal, otherwise a plain line from time to time."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

PLAIN_INTERVAL = 10.0
"""Seconds between plain lines."""


def say_on(rank: int) -> Callable[[str], None]:
    """A function that prints a line on standard error, above the bar; on other ranks than the first it does nothing."""
    return _print if rank == 0 else lambda text: None


def _print(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


class Progress:
    """Shows steps, loss, speed and the time left."""

    def __init__(self, *, total: int, start: int, unit: str = "tokens", silent: bool = False) -> None:
        """`total` and `start` are steps; `unit` is what the speed counts."""
        self.total, self.unit, self.silent = total, unit, silent
        self._bar: tqdm | None = None
        if not silent and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1)
        self._printed = time.perf_counter()

    def update(self, step: int, *, loss: float, speed: float, seconds_left: float) -> None:
        """Show a finished step; `speed` is in units per second."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} {self.unit}/s", refresh=False)
            return
        now = time.perf_counter()
        if not self.silent and now - self._printed >= PLAIN_INTERVAL:
            self._printed = now
            self.write(
                f"step {step}/{self.total}: loss {loss:.3f}, {speed:,.0f} {self.unit}/s, "
                f"{tqdm.format_interval(seconds_left)} left"
            )

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.silent:
            _print(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
