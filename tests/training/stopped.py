"""Stops a run by a signal at a step of its training, so that no test has to meet it in time.

As a script: `stopped.py EPOCH STEP SIGNAL WORDS...` does what `vitrellis WORDS...` does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from vitrellis.cli.main import main
from vitrellis.training.display import Display


@contextmanager
def signal_after(epoch: int, step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """This process sends itself a signal after a step, before the step's checkpoint is written.

    Args:
        epoch: The 0-based epoch.
        step: The number of the step in the epoch, from 1.
        number: The signal.
    """
    advance = Display.advance

    def signalling(self: Display, at_epoch: int, at_step: int, num_images: int, lr: float) -> None:
        advance(self, at_epoch, at_step, num_images, lr)
        if (at_epoch, at_step) == (epoch, step):
            os.kill(os.getpid(), number)

    with mock.patch.object(Display, "advance", signalling):
        yield


if __name__ == "__main__":
    place = [int(word) for word in sys.argv[1:4]]
    sys.argv[1:] = sys.argv[4:]
    with signal_after(*place):
        main()
