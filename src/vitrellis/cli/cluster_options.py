"""The options of commands that train several runs: how many at a time, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vitrellis.errors import UsageError

if TYPE_CHECKING:
    from vitrellis.experiments.slots import Slot
    from vitrellis.recipe import Recipe

Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trainings at the same time, on different cores or GPUs; by default 1. compare "
        "--slurm has no limit by default.",
    ),
]
Slurm = Annotated[
    str | None,
    typer.Option(
        metavar="OPTIONS",
        help="Submit the trainings to Slurm as job arrays; each has these options of sbatch.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Train on the Ray cluster at this address, or auto. Each training asks for "
        "machine.threads cores and machine.devices GPUs; --jobs at the same time.",
    ),
]


_ALL = 10_000
"""More trainings than a queue would take."""


def cluster_slots(
    jobs: int | None, slurm: str | None, ray: str | None, recipes: Sequence[Recipe]
) -> list[Slot] | None:
    """The slots of a cluster; None to train on this machine.

    Raises:
        UsageError: If both are asked for, or the cluster is not there.
    """
    if slurm is not None and ray is not None:
        raise UsageError("--slurm and --ray: choose one")
    if slurm is not None:
        from vitrellis.experiments.slurm_array import SlurmQueue

        return [SlurmQueue.parse(slurm)] * (jobs or _ALL)
    if ray is not None:
        from vitrellis.experiments.ray_slots import RaySlot

        cpus = max(recipe.machine.threads or 1 for recipe in recipes)
        return [RaySlot(ray, cpus, max(recipe.machine.devices for recipe in recipes))] * (jobs or 1)
    return None
