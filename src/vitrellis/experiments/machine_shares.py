"""Divides the cores and the GPUs of this machine among trainings that run at the same time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrellis.errors import UsageError
from vitrellis.experiments.slots import LocalTraining, with_threads
from vitrellis.recipe import Recipe


@dataclass(frozen=True)
class MachineShare:
    """The part of the machine that one training at a time may use.

    Attributes:
        threads: The number of processor threads of each of its processes.
        gpus: The GPUs, as in `CUDA_VISIBLE_DEVICES`; empty without any.
        is_alone: Whether no other share has the same GPUs. On the CPU, shares have cores of their
            own, but caches and memory are common, so that none is alone.
    """

    threads: int
    gpus: tuple[str, ...] = ()
    is_alone: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process is told of its share."""
        variables = {"OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return variables

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with the threads of this share, unless it says how many it wants."""
        return with_threads(recipe, self.threads)

    def start(self, command: Sequence[str], log: Path) -> LocalTraining:
        """Starts a training on this share."""
        return LocalTraining(command, log, self.environment)


def machine_shares(jobs: int, recipes: Sequence[Recipe]) -> list[MachineShare]:
    """A share for each of the trainings that run at the same time.

    Args:
        jobs: The number of trainings at the same time.
        recipes: The recipes of all trainings.

    Raises:
        UsageError: If there are too few GPUs for recipes that use several.
    """
    devices = max(recipe.machine.devices for recipe in recipes)
    uses_gpus = any(recipe.machine.accelerator in ("auto", "cuda") for recipe in recipes)
    gpus = visible_gpus() if uses_gpus else []
    return divided(jobs, devices=devices, cores=usable_cores(), gpus=gpus)


def divided(jobs: int, *, devices: int, cores: int, gpus: Sequence[str]) -> list[MachineShare]:
    """Divides cores and GPUs.

    Args:
        jobs: The number of shares.
        devices: The number of devices that each training uses.
        cores: The number of cores.
        gpus: The names of the GPUs; empty to compute on the CPU.

    Raises:
        UsageError: If some GPUs would have to work for two trainings that use several.
    """
    if not gpus:
        return [MachineShare(max(1, cores // (jobs * devices)))] * jobs
    threads = max(1, cores // (jobs * devices))
    if jobs * devices <= len(gpus):
        return [
            MachineShare(threads, tuple(gpus[job * devices : (job + 1) * devices]), is_alone=True)
            for job in range(jobs)
        ]
    if devices > 1:
        raise UsageError(
            f"--jobs {jobs}: needs {jobs * devices} GPUs, as each training uses {devices} "
            f"(machine.devices), and there are {len(gpus)}. Use --jobs "
            f"{max(1, len(gpus) // devices)}, or machine.devices=1"
        )
    return [MachineShare(threads, (gpus[job % len(gpus)],)) for job in range(jobs)]


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as in `CUDA_VISIBLE_DEVICES`."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return named[:count] if any(named) else [str(index) for index in range(count)]


def usable_cores() -> int:
    """The number of cores that this process may use, which a container or Slurm may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
