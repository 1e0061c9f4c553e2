"""A training as a job of Slurm: what each of its processes does, and how the job is submitted.

Some time before the job ends or is preempted, Slurm sends SIGUSR1 or SIGTERM. The training saves a
checkpoint, and the job puts itself back into the queue, from where it continues.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vitrellis.errors import UsageError, VitrellisError, unknown_name
from vitrellis.training.interrupts import Interrupted

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

SAVE_SECONDS = 120
"""The time before its limit at which a job is told to save."""
_LEAST_MINUTES = 5
_SIGNAL = "USR1"
_IS_JOB = "VITRELLIS_JOB"
_NOT_REQUEUED = ("CANCELLED", "COMPLETED", "FAILED")
_TIME = re.compile(r"^(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?$")


@dataclass(frozen=True)
class Resources:
    """What a job asks Slurm for.

    Attributes:
        nodes: The number of machines.
        gpus: The number of GPUs on each, with a process for each of them; with 0, one process on
            each machine computes on the CPU.
        minutes: The longest time until the job is put back into the queue.
        partition: The partition; None for the cluster's own choice.
        cpus: Cores for each process; None for the cluster's own choice.
        further: Other parameters of sbatch, such as `account`.
    """

    nodes: int
    gpus: int
    minutes: int
    partition: str | None
    cpus: int | None
    further: Mapping[str, str]

    def parameters(self, name: str) -> dict[str, Any]:
        """The parameters of submitit."""
        values: dict[str, Any] = {
            "job_name": name,
            "nodes": self.nodes,
            "ntasks_per_node": max(1, self.gpus),
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "time": self.minutes,
            "partition": self.partition,
            "signal_delay_s": SAVE_SECONDS,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.further},
        }
        return {key: value for key, value in values.items() if value is not None}


class TrainingJob:
    """What each process of a job does: it becomes `vitrellis train`, which knows that it is a job.

    Args:
        recipe: The recipe's name or file.
        overrides: `key=value` changes to it.
        out: The run directory.
    """

    def __init__(self, recipe: str, overrides: list[str], out: Path) -> None:
        self.recipe = recipe
        self.overrides = overrides
        self.out = out

    def __call__(self) -> None:
        """Trains; this process, which submitit started, is replaced."""
        words = ["train", self.recipe, *self.overrides, "--out", str(self.out)]
        os.environ[_IS_JOB] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "vitrellis", *words])

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues again if the signal comes before the training."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def is_cluster_job() -> bool:
    """Whether this process is one of a job that `vitrellis launch` has submitted."""
    return _IS_JOB in os.environ


def stop_on_signals() -> None:
    """Ends the command in order if a signal comes before the first step, or after the last.

    In between, the training itself catches the signals, and saves first.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        raise Interrupted(f"stopped by {signal.Signals(number).name} outside of the training")

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, on_signal)


def queue_again() -> None:
    """Puts the job back into the queue, unless its user has cancelled it."""
    for number in (signal.SIGUSR1, signal.SIGTERM):  # Slurm ends the job when it is queued again
        signal.signal(number, signal.SIG_IGN)
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return
    job = os.environ["SLURM_JOB_ID"]
    shown = subprocess.run(
        ["squeue", "--noheader", "--format=%T", f"--jobs={job}"],
        capture_output=True,
        text=True,
        check=False,
    )
    state = shown.stdout.strip()
    if state in _NOT_REQUEUED:
        _say(f"job {job} is {state.lower()}, so that it is not put back into the queue")
        return
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        _say(f"job {job} was not put back into the queue: {done.stderr.strip()}")
    else:
        _say(f"job {job} is back in the queue, and continues from the checkpoint")


def _say(text: str) -> None:
    from vitrellis.cli.console import console

    console.print(text, highlight=False, soft_wrap=True)


def minutes_of(text: str) -> int:
    """The minutes of a time limit in Slurm's forms.

    Args:
        text: `minutes`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` or
            `days-hours:minutes:seconds`; and `minutes:seconds`, as in Slurm.

    Raises:
        UsageError: If it has another form, or is too short for a checkpoint to be written.
    """
    match = _TIME.match(text)
    if match is None:
        raise UsageError(
            f"--time {text}: is no time. Use hours:minutes:seconds, such as 8:00:00, or "
            "days-hours, such as 2-12"
        )
    first, second, third = (int(match[key] or 0) for key in ("first", "second", "third"))
    if match["days"] is not None:
        seconds = ((int(match["days"]) * 24 + first) * 60 + second) * 60 + third
    elif match["third"] is not None:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    if seconds < 60 * _LEAST_MINUTES:
        raise UsageError(
            f"--time {text}: is {seconds // 60} minutes, of which the last {SAVE_SECONDS // 60} "
            "are for saving a checkpoint; nothing would be trained. Use at least "
            f"0:{_LEAST_MINUTES:02}:00"
        )
    return -(-seconds // 60)


def script_of(resources: Resources, folder: Path, name: str) -> str:
    """The script that is submitted, for the user to look at."""
    slurm = _submitit().slurm.slurm
    command = f"{sys.executable} -u -m submitit.core._submit {folder}"
    text: str = slurm._make_sbatch_string(
        command=command, folder=folder, **resources.parameters(name)
    )
    return text


def submit(job: TrainingJob, resources: Resources, folder: Path, name: str) -> str:
    """Submits a job.

    Args:
        job: What its processes do.
        resources: What it asks for.
        folder: The folder for what it prints; all machines have to see it.
        name: Its name in the queue.

    Returns:
        The number of the job.

    Raises:
        UsageError: If there is no Slurm, no such partition, or not so many machines.
        VitrellisError: If Slurm refuses the job, with its reason.
    """
    submitit = _submitit()
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise UsageError(
                f"launch: {program} is not on the PATH, so that this is no login node of a Slurm "
                "cluster. Use `vitrellis train` or torchrun here, or --dry-run to see the script"
            )
    _check_partition(resources)
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**resources.parameters(name))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # our error says it once
            submitted = executor.submit(job)
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        reason = " ".join(str(error).split()).rpartition("sbatch: error: ")[2]
        raise VitrellisError(f"launch: Slurm refused the job: {reason}") from None
    job_id: str = submitted.job_id
    return job_id


def _check_partition(resources: Resources) -> None:
    """Makes sure that the partition exists and has so many machines."""
    shown = subprocess.run(
        ["sinfo", "--noheader", "--format=%P %D"], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        raise VitrellisError(f"launch: Slurm does not answer: {shown.stderr.strip()}")
    machines: dict[str, int] = {}
    default = None
    for line in shown.stdout.splitlines():
        name, count = line.split()
        if name.endswith("*"):
            name = default = name.rstrip("*")
        machines[name] = machines.get(name, 0) + int(count)
    partition = resources.partition if resources.partition is not None else default
    if partition is None:
        return
    if partition not in machines:
        raise unknown_name("partition", partition, machines)
    if resources.nodes > machines[partition]:
        raise UsageError(
            f"--nodes {resources.nodes}: partition {partition} has {machines[partition]}"
        )


def _submitit() -> Any:
    """The module submitit, which sends the signal that trainings listen to."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = _SIGNAL  # read when it is imported
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "launch: needs submitit. Install it with: pip install 'vitrellis[cluster]'"
        ) from None
    return submitit
