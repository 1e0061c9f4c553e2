"""Trains several recipes side by side, each by `vitrellis train` in a process of its own.

Every training is told its share of the machine and writes what it prints into a file. One that
fails does not stop the others. Ctrl-C stops all of them; each saves a checkpoint first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil
from rich.console import Console

from vitrellis.assembly.run_folder import HoldsAnotherRun
from vitrellis.experiments.job_display import JobDisplay
from vitrellis.experiments.machine_shares import MachineShare
from vitrellis.recipe import Recipe, describe
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.directory import RunDirectory
from vitrellis.training.interrupts import Interrupted, StopRequest, stop_requests

POLL_SECONDS = 0.2
_OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that would make a training wait for others."""


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        name: Its name in the table, such as "demo, seed0".
        recipe: The recipe.
        run: The run directory.
    """

    name: str
    recipe: Recipe
    run: RunDirectory


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        job: The training.
        state: "done", "failed", or "stopped" by us before its end.
        exit_code: The exit code; minus the number of the signal that ended the process.
        text: The error that it printed; its figures in a line if it is done.
    """

    job: Job
    state: Literal["done", "failed", "stopped"]
    exit_code: int
    text: str


class JobPlan(Protocol):
    """Decides what is trained, and in which order."""

    def next_job(self, running: Sequence[Job]) -> Job | None:
        """The training to start now; None if there is none, or it has to wait for another."""

    def end(self, outcome: Outcome) -> None:
        """Takes note of a training that has ended."""

    def num_waiting(self) -> int:
        """The number of trainings that are still to be started, as far as it is known."""

    def figures_of(self, job: Job) -> str:
        """The figures of a training that is done, in a line."""

    def gives_up(self, job: Job) -> bool:
        """Whether a training that runs is to be stopped, because it is not promising."""


@dataclass
class _Running:
    """A training in progress."""

    job: Job
    share: MachineShare
    process: subprocess.Popen[bytes]
    log: Path
    is_given_up: bool = False


def run_jobs(
    plan: JobPlan, shares: Sequence[MachineShare], *, logs: Path, console: Console
) -> None:
    """Trains what a plan asks for, as many at the same time as there are shares.

    Args:
        plan: Names the trainings, and is told how each ended.
        shares: The parts of the machine; each is used by one training at a time.
        logs: The folder for what the trainings print, and for their recipes.
        console: Shows what is waiting, running, done and failed.

    Raises:
        Interrupted: After SIGTERM or Ctrl-C, when all trainings have saved and ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    free, running = list(shares), list[_Running]()
    with stop_requests() as stop, JobDisplay(console) as display:
        try:
            while True:
                while free and not stop and (job := plan.next_job([r.job for r in running])):
                    running.append(_start(job, free.pop(0), logs))
                    display.start(job.name, running[-1].log, plan.num_waiting())
                if not running or stop:
                    break
                _give_up(plan, running)
                time.sleep(POLL_SECONDS)
                for ended in [each for each in running if each.process.poll() is not None]:
                    running.remove(ended)
                    free.append(ended.share)
                    outcome = _outcome(ended, plan)
                    plan.end(outcome)
                    display.end(outcome.job.name, outcome.state, outcome.text, plan.num_waiting())
                display.refresh()
            _stop_all(running, stop, console)
        finally:
            _kill(running)


def _start(job: Job, share: MachineShare, logs: Path) -> _Running:
    name = f"{job.run.path.parent.name}-{job.run.path.name}"
    recipe, log = logs / f"{name}.yaml", logs / f"{name}.log"
    text = describe(share.of(job.recipe))
    atomic_write(recipe, lambda path: path.write_text(text, encoding="utf-8"))
    environment = {key: value for key, value in os.environ.items() if key not in _OF_A_GROUP}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_of(recipe, job.run),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment | share.environment | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
            # Ctrl-C reaches this process alone, which stops the others
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # of Windows
        )
    return _Running(job, share, process, log)


def command_of(recipe: Path, run: RunDirectory) -> list[str]:
    """The command that trains a recipe file."""
    return [sys.executable, "-m", "vitrellis", "train", str(recipe), "--out", str(run.path)]


def _give_up(plan: JobPlan, running: Sequence[_Running]) -> None:
    for each in running:
        if not each.is_given_up and plan.gives_up(each.job):
            each.is_given_up = True
            _ask_to_stop(each.process)


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Lets a training save and end."""
    if sys.platform == "win32":  # where to terminate is to kill
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.terminate()


def _outcome(ended: _Running, plan: JobPlan) -> Outcome:
    code = ended.process.returncode
    if code == 0:
        return Outcome(ended.job, "done", code, plan.figures_of(ended.job))
    state: Literal["stopped", "failed"] = "stopped" if ended.is_given_up else "failed"
    return Outcome(ended.job, state, code, _error(ended, code))


def _error(ended: _Running, code: int) -> str:
    """The error that a training printed, in the words of a command that has no `--fresh`."""
    printed = ended.log.read_text(encoding="utf-8", errors="replace")
    before, mark, error = printed.rpartition("error: ")
    if mark and (not before or before.endswith("\n")):
        return error.strip().replace(
            HoldsAnotherRun.WAY_OUT, f"Use another --out, or delete {ended.job.run.path}"
        )
    if code < 0:
        name = signal.Signals(-code).name
        reason = " (perhaps the memory was full)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{reason}; {ended.log} has what it printed"
    return f"its process ended with exit code {code}; {ended.log} has what it printed"


def _stop_all(running: list[_Running], stop: StopRequest, console: Console) -> None:
    """Lets all trainings save and end; a second Ctrl-C ends them at once."""
    if not stop:
        return
    if running:
        console.print(f"{stop.signal_name}: {_count(len(running))} to save", highlight=False)
    for each in running:
        _ask_to_stop(each.process)
    for each in running:
        each.process.wait()
    raise Interrupted(
        f"stopped by {stop.signal_name}. Trainings that ran saved their checkpoints, and the same "
        "command continues them"
    )


def _kill(running: Sequence[_Running]) -> None:
    """Ends what still runs after an error, or a second Ctrl-C, with the processes that it began."""
    for each in running:
        if each.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
                for process in psutil.Process(each.process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            each.process.kill()
            each.process.wait()


def _count(number: int) -> str:
    return "waiting for 1 training" if number == 1 else f"waiting for {number} trainings"
