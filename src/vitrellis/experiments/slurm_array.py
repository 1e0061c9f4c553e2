"""Trainings as jobs of a Slurm cluster: those that are ready at the same time are one job array.

The trainings of an array are in the queue together and run when Slurm has room. They do not need
the command that submitted them: if its terminal is lost, they go on, and the same command finds
them again. For each training, three files are beside its log: a script `NAME.sh`, the number of its
job in `NAME.job`, and at its end the exit code in `NAME.exit`.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitrellis.errors import UsageError
from vitrellis.experiments.slots import environment_of_training
from vitrellis.recipe import Recipe

_SECONDS_BETWEEN_CALLS = 5.0  # squeue asks the controller, which is there for all users
_SECONDS_FOR_THE_FILE = 60.0  # a file system of several machines may show it late
_LOST = -9  # as if the process had been killed


class SlurmTraining:
    """A training that is, or will be, a task of a job array.

    Args:
        queue: Submits it, and knows its state.
        script: What the task runs, a file `NAME.sh`.
    """

    def __init__(self, queue: SlurmQueue, script: Path) -> None:
        self.script = script
        self._queue = queue
        self._missing_since: float | None = None
        self._job_file = script.with_suffix(".job")
        self._exit_file = script.with_suffix(".exit")

    @property
    def job(self) -> str | None:
        """The job and its number in the array, such as "12_3"; None before it is submitted."""
        if not self._job_file.is_file():
            return None
        return self._job_file.read_text(encoding="utf-8").strip()

    def is_submitted(self, job: str) -> None:
        """Takes note of its job."""
        self._exit_file.unlink(missing_ok=True)
        self._job_file.write_text(job, encoding="utf-8")

    def exit_code(self) -> int | None:
        """The exit code; None before its end.

        A task that left the queue without one was killed: by Slurm, or with its machine.
        """
        self._queue.submit()
        if self.job is None:
            return 1  # sbatch refused it; the log says why
        if self._exit_file.is_file() and (code := self._exit_file.read_text().strip()):
            self.forget()
            return int(code)
        if self._queue.has(self.job):
            self._missing_since = None
            return None
        self._missing_since = self._missing_since or time.monotonic()
        if time.monotonic() - self._missing_since < _SECONDS_FOR_THE_FILE:
            return None
        self.forget()
        return _LOST

    def ask_to_stop(self) -> None:
        """Takes it out of the queue, or lets it save and end."""
        if self.job is not None:
            self._queue.cancel(self.job, "--state=PENDING")
            self._queue.cancel(self.job, "--signal=TERM")

    def wait(self) -> None:
        """Returns when it has ended."""
        if self.job is None:
            return
        while self._queue.has(self.job) and self.exit_code() is None:
            time.sleep(1.0)

    def kill(self) -> None:
        """Ends it at once."""
        if self.job is not None:
            self._queue.cancel(self.job)
            self.forget()

    def forget(self) -> None:
        """Takes note that its job is no more."""
        self._job_file.unlink(missing_ok=True)


@dataclass
class SlurmQueue:
    """Slots of a Slurm cluster: submits job arrays, and knows what is in the queue.

    Attributes:
        options: Options of sbatch, such as `--partition=gpu --gpus=1 --time=8:00:00`.
    """

    options: tuple[str, ...]
    _waiting: list[SlurmTraining] = field(default_factory=list)
    _listed: frozenset[str] = frozenset()
    _asked: float | None = None

    @classmethod
    def parse(cls, text: str) -> SlurmQueue:
        """Reads the options as a shell does.

        Raises:
            UsageError: If they are no options, or there is no Slurm.
        """
        try:
            options = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"--slurm {text!r}: {error}") from None
        for option in options[:1]:
            if not option.startswith("-"):
                raise UsageError(
                    f"--slurm {text!r}: holds the options of sbatch, such as "
                    "'--partition=gpu --gpus=1 --time=8:00:00'; it may be empty: --slurm ''"
                )
        for program in ("sbatch", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise UsageError(
                    f"--slurm: {program} is not on the PATH, so that this is no login node of a "
                    "Slurm cluster. Leave --slurm out to train on this machine"
                )
        return cls(options)

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe as it is: threads and workers follow from the cores of the job."""
        return recipe

    def start(self, command: Sequence[str], log: Path) -> SlurmTraining:
        """A training, which is submitted with others; or is found again if it is in the queue."""
        script = log.with_suffix(".sh")
        training = SlurmTraining(self, script)
        if training.job is not None and self.has(training.job, now=True):
            return training
        training.forget()
        output, code = shlex.quote(str(log)), shlex.quote(str(log.with_suffix(".exit")))
        script.write_text(
            # Slurm also sends the signal for its end to this shell, which has to write the code;
            # it is renamed, because a file that is being written may be read
            "#!/bin/bash\n"
            "trap : TERM USR1\n"
            f"srun --ntasks=1 --unbuffered {shlex.join(command)} >{output} 2>&1 &\n"
            "while wait $!; code=$?; [ $code -gt 128 ] && kill -0 $! 2>/dev/null; do :; done\n"
            f"echo $code >{code}.new && mv {code}.new {code}\n",
            encoding="utf-8",
        )
        log.write_text("", encoding="utf-8")
        self._waiting.append(training)
        return training

    def submit(self) -> None:
        """Submits the trainings that were started since the last call, as one array."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        scripts = [str(training.script.absolute()) for training in waiting]
        lines = [f"{number}) exec bash {shlex.quote(s)};;" for number, s in enumerate(scripts)]
        text = "\n".join(["#!/bin/bash", 'case "$SLURM_ARRAY_TASK_ID" in', *lines, "esac", ""])
        command = ["sbatch", "--parsable", "--ntasks=1", "--job-name=vitrellis"]
        command += ["--output=/dev/null", "--no-requeue", *self.options]
        submitted = subprocess.run(
            [*command, f"--array=0-{len(waiting) - 1}"],
            input=text,
            env=environment_of_training(),
            capture_output=True,
            text=True,
            check=False,
        )
        if submitted.returncode != 0:
            for training in waiting:
                training.script.with_suffix(".log").write_text(submitted.stderr, encoding="utf-8")
            return
        array = submitted.stdout.strip().split(";")[0]  # a federation adds the cluster's name
        for number, training in enumerate(waiting):
            training.is_submitted(f"{array}_{number}")
        self._asked = None

    def has(self, job: str, *, now: bool = False) -> bool:
        """Whether a job is in the queue or runs, as of a few seconds ago, or now.

        As long as the controller has not answered once, nothing is known to have ended.
        """
        is_old = self._asked is None or time.monotonic() - self._asked > _SECONDS_BETWEEN_CALLS
        if now or is_old:
            self._ask()
        return self._asked is None or job in self._listed

    def cancel(self, job: str, *options: str) -> None:
        """Cancels a job, or sends it a signal; one that has ended by itself is left alone."""
        subprocess.run(["scancel", *options, job], capture_output=True, check=False)

    def _ask(self) -> None:
        asked = subprocess.run(
            ["squeue", "--me", "--noheader", "--array", "--format=%i"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:  # the controller may be restarted; what ran then still runs
            self._listed = frozenset(asked.stdout.split())
            self._asked = time.monotonic()
