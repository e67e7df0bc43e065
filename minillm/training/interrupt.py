"""Ctrl-C and SIGTERM: training stops after the current step and saves; everything else stops immediately."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM was received. Not an Exception, like KeyboardInterrupt."""


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Context in which Ctrl-C raises KeyboardInterrupt and a first SIGTERM Terminated; a second kills the process.

    While torch is being imported both end the process: an exception there would abort it.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
            os.write(2, b"minillm: interrupted\n" if number == signal.SIGINT else b"minillm: terminated\n")
            os._exit(128 + number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to no other thread
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a command in the background ignores Ctrl-C
        numbers.append(signal.SIGINT)
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StopRequest:
    """Context in which the first Ctrl-C or SIGTERM sets `requested` and `signal`; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.requested = False
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal = True, self.signal or number
