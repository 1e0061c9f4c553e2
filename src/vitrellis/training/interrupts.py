"""Signals stop a run after the current step; a second Ctrl-C stops it at once.

They are Ctrl-C, SIGTERM, and SIGUSR1, by which Slurm says that the time of a job is nearly over.
Windows has no SIGUSR1; there, other processes send SIGBREAK, as a SIGTERM would kill at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vitrellis.errors import VitrellisError


class Interrupted(VitrellisError):
    """The run was stopped by a signal after it wrote a checkpoint, and can be resumed."""

    is_shared = True


class StopRequest:
    """Whether a signal asked the run to stop, and the name of the signal."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches the signals that the system has within the block; the caller checks the request.

    Outside the main thread (in a notebook's worker, for example) signals cannot be caught, and the
    request stays false.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    names = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
