"""SIGTERM and Ctrl-C ask a run to stop after the present step; a second Ctrl-C stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vitrellis.errors import VitrellisError


class Interrupted(VitrellisError):
    """The run was asked to stop, has saved, and can be continued."""


class StopRequest:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches SIGTERM and SIGINT for the length of the block; the caller looks at the request.

    Outside the main thread (a notebook's worker, say) signals cannot be caught, and the request
    stays false.
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

    previous = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
