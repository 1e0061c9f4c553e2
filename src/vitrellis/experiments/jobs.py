"""Trains several recipes side by side, each by `vitrellis train` in a process of its own.

Every training has a slot, here or on a cluster, and writes what it prints into a file. One that
fails does not stop the others. Ctrl-C stops all of them; each saves a checkpoint first.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console

from vitrellis.assembly.run_folder import HoldsAnotherRun
from vitrellis.experiments.job_display import JobDisplay
from vitrellis.experiments.slots import Slot, TrainingProcess
from vitrellis.recipe import Recipe, describe
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.directory import RunDirectory
from vitrellis.training.interrupts import Interrupted, StopRequest, stop_requests

POLL_SECONDS = 0.2


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
    slot: Slot
    training: TrainingProcess
    log: Path
    is_given_up: bool = False


def run_jobs(plan: JobPlan, slots: Sequence[Slot], *, logs: Path, console: Console) -> None:
    """Trains what a plan asks for, as many at the same time as there are slots.

    Args:
        plan: Names the trainings, and is told how each ended.
        slots: The places for one training at a time.
        logs: The folder for what the trainings print, and for their recipes.
        console: Shows what is waiting, running, done and failed.

    Raises:
        Interrupted: After SIGTERM or Ctrl-C, when all trainings have saved and ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    free, running = list(slots), list[_Running]()
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
                codes = [(each, each.training.exit_code()) for each in running]
                for ended, code in [(each, code) for each, code in codes if code is not None]:
                    running.remove(ended)
                    free.append(ended.slot)
                    outcome = _outcome(ended, code, plan)
                    plan.end(outcome)
                    display.end(outcome.job.name, outcome.state, outcome.text, plan.num_waiting())
                display.refresh()
            _stop_all(running, stop, console)
        finally:
            _kill(running)


def _start(job: Job, slot: Slot, logs: Path) -> _Running:
    name = f"{job.run.path.parent.name}-{job.run.path.name}"
    recipe, log = logs / f"{name}.yaml", logs / f"{name}.log"
    text = describe(slot.of(job.recipe))
    atomic_write(recipe, lambda path: path.write_text(text, encoding="utf-8"))
    return _Running(job, slot, slot.start(command_of(recipe, job.run), log), log)


def command_of(recipe: Path, run: RunDirectory) -> list[str]:
    """The command that trains a recipe file."""
    return [sys.executable, "-m", "vitrellis", "train", str(recipe), "--out", str(run.path)]


def _give_up(plan: JobPlan, running: Sequence[_Running]) -> None:
    for each in running:
        if not each.is_given_up and plan.gives_up(each.job):
            each.is_given_up = True
            each.training.ask_to_stop()


def _outcome(ended: _Running, code: int, plan: JobPlan) -> Outcome:
    if code == 0:
        return Outcome(ended.job, "done", code, plan.figures_of(ended.job))
    state: Literal["stopped", "failed"] = "stopped" if ended.is_given_up else "failed"
    return Outcome(ended.job, state, code, _error(ended, code))


def _error(ended: _Running, code: int) -> str:
    """The error that a training printed, in the words of a command that has no `--fresh`."""
    lines = ended.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    of_slurm = [line for line in lines if line.startswith(("srun: error: ", "sbatch: error: "))]
    printed = "".join(line for line in lines if not line.startswith(("srun: ", "sbatch: ")))
    before, mark, error = printed.rpartition("error: ")
    if mark and (not before or before.endswith("\n")):
        return error.strip().replace(
            HoldsAnotherRun.WAY_OUT, f"Use another --out, or delete {ended.job.run.path}"
        )
    if of_slurm and not printed.strip():  # the job was refused, or was taken from the queue
        return f"Slurm: {'; '.join(line.partition('error: ')[2].strip() for line in of_slurm)}"
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
        each.training.ask_to_stop()
    for each in running:
        each.training.wait()
    raise Interrupted(
        f"stopped by {stop.signal_name}. Trainings that ran saved their checkpoints, and the same "
        "command continues them"
    )


def _kill(running: Sequence[_Running]) -> None:
    """Ends what still runs after an error, or a second Ctrl-C."""
    for each in running:
        each.training.kill()


def _count(number: int) -> str:
    return "waiting for 1 training" if number == 1 else f"waiting for {number} trainings"
