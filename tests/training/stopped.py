"""Runs that are stopped by a signal: at a step of the training, so that no test has to time it.

The processes that run the command are forked from one that has loaded torch, which takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.training.command import write_few_images
from tests.training.killed import Killer
from vitrellis.cli.main import main
from vitrellis.training.display import Display

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__, "vitrellis.assembly.launch"])


class Begun(NamedTuple):
    """A command in a process of its own, with the file that holds what it prints."""

    process: BaseProcess
    output: Path

    def finish(self, code: int) -> str:
        """Waits for the command, checks its exit code, and returns what it printed.

        Args:
            code: The exit code; minus the signal's number if one ended it.
        """
        self.process.join(timeout=300)
        printed = self.output.read_text()
        assert self.process.exitcode == code, f"exit code {self.process.exitcode}\n{printed}"
        assert "Traceback" not in printed, printed
        return printed


def begin(
    *words: str,
    cwd: Path,
    stop: tuple[int, int, int] | None = None,
    kill: tuple[Path, int | str | None] | None = None,
) -> Begun:
    """Begins `vitrellis WORDS` in `cwd`.

    Args:
        *words: The command line.
        cwd: Where it runs.
        stop: Epoch, step and signal: see `signal_after`.
        kill: A folder, and the change to it before which the process is killed, or None to count
            them. The changes are listed in `changes.txt`; see `Killer`.
    """
    write_few_images(words, cwd)
    output = cwd / "printed.txt"
    output.touch()
    process = _SERVER.Process(target=_command, args=(words, cwd, output, stop, kill))
    process.start()
    return Begun(process, output)


def _command(
    words: tuple[str, ...],
    cwd: Path,
    output: Path,
    stop: tuple[int, int, int] | None,
    kill: tuple[Path, int | str | None] | None,
) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    sys.argv = ["vitrellis", *words]
    if kill is not None:
        Killer(*kill, cwd / "changes.txt").begin()
    with signal_after(*stop) if stop is not None else nullcontext():
        main()


@contextmanager
def signal_after(epoch: int, step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """This process sends itself a signal after a step, before the step's checkpoint is written.

    Args:
        epoch: The 0-based epoch.
        step: The number of the step in the epoch, from 1.
        number: The signal.
    """
    advance = Display.advance

    def signalling(self: Display, at_epoch: int, at_step: int, *figures: Any) -> None:
        advance(self, at_epoch, at_step, *figures)
        if (at_epoch, at_step) == (epoch, step):
            os.kill(os.getpid(), number)

    with mock.patch.object(Display, "advance", signalling):
        yield
