"""Where trainings run: a slot takes one at a time, here, in an array of Slurm, or on Ray.

A training is always the same command, `vitrellis train`, in a process of its own. Machines of a
cluster need this Python environment, the images and the folder of the runs under the same paths.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from vitrellis.recipe import Recipe

_OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that would make a training wait for others."""


class TrainingProcess(Protocol):
    """A training in progress."""

    def exit_code(self) -> int | None:
        """The exit code, minus the number of the signal that ended it; None before its end."""

    def ask_to_stop(self) -> None:
        """Lets it save and end."""

    def wait(self) -> None:
        """Returns when it has ended."""

    def kill(self) -> None:
        """Ends it at once, with the processes that it began."""


class Slot(Protocol):
    """A place for one training at a time."""

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with the number of threads and workers that suits this place."""

    def start(self, command: Sequence[str], log: Path) -> TrainingProcess:
        """Starts a training, which writes what it prints into `log`."""


class LocalTraining:
    """A process of this machine.

    Args:
        command: The command.
        log: The file for what it prints.
        changes: Variables of its environment, beside those of this process.
    """

    def __init__(self, command: Sequence[str], log: Path, changes: Mapping[str, str]) -> None:
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment_of_training(), **changes},
                # Ctrl-C reaches this process alone, which stops the others
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # of Windows
            )

    def exit_code(self) -> int | None:
        """The exit code, minus the number of the signal that ended it; None before its end."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Lets it save and end."""
        if sys.platform == "win32":  # where to terminate is to kill
            self._process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self._process.terminate()

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.wait()

    def kill(self) -> None:
        """Ends it at once, with the processes that it began."""
        if self._process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
                for process in psutil.Process(self._process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            self._process.kill()
            self._process.wait()


def with_threads(recipe: Recipe, threads: int) -> Recipe:
    """The recipe with so many threads and workers, unless it says itself how many it wants."""
    machine = recipe.machine
    changes: dict[str, object] = {}
    if machine.threads is None:
        changes["threads"] = threads
    if machine.workers == "auto":
        changes["workers"] = threads
    return recipe.model_copy(update={"machine": machine.model_copy(update=changes)})


def environment_of_training() -> dict[str, str]:
    """The variables of this process, without those that make a process one of a group."""
    kept = {key: value for key, value in os.environ.items() if key not in _OF_A_GROUP}
    return kept | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
