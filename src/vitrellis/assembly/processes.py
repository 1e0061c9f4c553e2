"""The processes that work together: on the devices of one machine, or of several machines.

They are started by `torchrun`, by Slurm's `srun`, or by Fabric itself for `machine.devices`. What
starts them says how many there are; Fabric connects them.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch.distributed as dist  # noqa: TID251
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.strategies import Strategy as FabricStrategy

from vitrellis.analysis.inference import Gather
from vitrellis.assembly.build import Place, evaluation_place
from vitrellis.assembly.sharding import ShardedStrategy
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.runs.checkpoints import CheckpointsInPlace
from vitrellis.runs.directory import RunDirectory
from vitrellis.training.gathering import gathering, together

_INTERACTIVE = ("bash", "interactive")
"""Names of Slurm jobs that are a shell, in which a command is no part of a group."""

_PATIENCE = timedelta(days=30)
"""How long processes wait for the first one. A process that ends is noticed at once."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that were started together with this one.

    Attributes:
        starter: What started them, in the user's words.
        machines: The number of machines.
        per_machine: The number of processes on each machine.
    """

    starter: str
    machines: int
    per_machine: int


def started_together() -> ProcessGroup | None:
    """The processes that torchrun or srun started with this one; None if it is alone.

    Raises:
        UsageError: If the machines have different numbers of processes.
    """
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" in variables:
        everywhere, here = int(variables["WORLD_SIZE"]), int(variables["LOCAL_WORLD_SIZE"])
        machines = int(variables.get("GROUP_WORLD_SIZE", everywhere // here))
        return _group("torchrun", "--nproc-per-node", everywhere, machines)
    tasks = int(variables.get("SLURM_NTASKS", "1"))
    is_shell = variables.get("SLURM_JOB_NAME") in _INTERACTIVE
    if tasks > 1 and "SLURM_PROCID" in variables and not is_shell:
        machines = int(variables.get("SLURM_NNODES", "1"))
        return _group("Slurm", "--ntasks-per-node", tasks, machines)
    return None


def _group(starter: str, option: str, everywhere: int, machines: int) -> ProcessGroup | None:
    if everywhere % machines:
        raise UsageError(
            f"{starter} started {everywhere} processes on {machines} machines; each machine needs "
            f"as many as the others. Use {option}"
        )
    return ProcessGroup(starter, machines, everywhere // machines) if everywhere > 1 else None


Strategy = Literal["ddp", "fsdp"]
"""How several devices share a training: each has the whole student, or a part of it."""


def launched_fabric(
    accelerator: str, devices: int, precision: Any, strategy: Strategy = "ddp"
) -> Fabric:
    """Fabric with all processes connected.

    Args:
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: The number of devices on this machine, unless the processes are started already.
        precision: The precision of the arithmetic.
        strategy: How several devices share a training.

    Raises:
        UsageError: If as many processes were not started as the recipe has devices.
    """
    group = started_together()
    if group is not None:
        if devices not in (1, group.per_machine):
            raise UsageError(
                f"machine.devices: {devices}, but {group.starter} started {group.per_machine} on "
                "each machine. Leave machine.devices out: what starts the processes says how many"
            )
        devices = group.per_machine
    machines = 1 if group is None else group.machines
    for name in ("lightning.fabric", "lightning.pytorch"):  # our summary says how many there are
        logging.getLogger(name).setLevel(logging.WARNING)
    chosen = _strategy(strategy, machines * devices)
    # FSDP2's strategy writes checkpoints itself
    files = [] if isinstance(chosen, ShardedStrategy) else [CheckpointsInPlace()]
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=machines,
        strategy=chosen,
        precision=precision,
        plugins=[_environment(group), *files],
    )
    fabric.launch()
    return fabric


def _strategy(name: Strategy, processes: int) -> FabricStrategy | str:
    if processes == 1:
        return "auto"
    if name == "fsdp":
        return ShardedStrategy(processes)
    # with channels_last, convolutions' gradients lie otherwise in memory than DDP's sums of them
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # a term that is switched off leaves its projections without a gradient
    return DDPStrategy(find_unused_parameters=True)


def _environment(group: ProcessGroup | None) -> ClusterEnvironment:
    """Named, because Fabric would take a single process within a Slurm job for one of a group."""
    if group is None:
        return LightningEnvironment()
    if group.starter == "torchrun":
        return TorchElasticEnvironment()
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(group.per_machine))  # Fabric requires it
    return SLURMEnvironment(auto_requeue=False)


@contextmanager
def others_wait(fabric: Fabric) -> Iterator[None]:
    """Lets the other processes wait at the end of the block until the first one is there.

    They also go on if the first one has an error, which it can then tell them.

    The first process may train a teacher meanwhile, or wait for another run that does, which takes
    longer than the half an hour that a collective operation of torch waits by default.
    """
    if fabric.world_size == 1:
        yield
        return
    # Fabric has no barrier with a time limit of its own
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    error = None
    try:
        yield
    except VitrellisError as raised:
        error = raised
    dist.barrier(group)
    dist.destroy_process_group(group)
    if error is not None:
        raise error


def evaluation_processes(device: str = "auto") -> tuple[Place, Gather]:
    """The place of this process in an evaluation, and the function that gathers from all.

    Args:
        device: "cpu", "cuda", "mps", or "auto" for a GPU if there is one.

    Raises:
        UsageError: If there is no such device.
    """
    alone = evaluation_place(device)
    if started_together() is None:
        return alone, lambda value: [value]
    fabric = launched_fabric(device, 1, "32-true")
    place = Place(fabric.device, fabric.global_rank, fabric.world_size, alone.workers)
    return place, gathering(fabric)


def check_same_files(fabric: Fabric, run: RunDirectory, fingerprint: str) -> None:
    """Makes sure that all machines see the run directory and the same images.

    Args:
        fabric: Fabric, launched.
        run: The run directory, which process 0 has opened.
        fingerprint: The fingerprint of the images that this process sees.

    Raises:
        UsageError: In all processes, naming the machine.
    """
    if fabric.world_size == 1:
        return
    first = fabric.broadcast(fingerprint)
    here = f"process {fabric.global_rank} on {socket.gethostname()}"

    def differences() -> str | None:
        if not run.marker_file.exists():
            return (
                f"{run.path}: {here} does not see it, and process 0 does. Put the run directory "
                "(--out) into a folder that all machines share"
            )
        if fingerprint != first:
            return f"data.root: {here} sees other images than process 0; they have to be the same"
        return None

    together(fabric, differences)


@contextmanager
def others_may_end(run: RunDirectory) -> Iterator[None]:
    """Turns the error of a connection to a process that has ended into one for the user.

    Args:
        run: The run directory.

    Raises:
        VitrellisError: If another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(library in text for library in ("gloo", "NCCL", "TCPStore")):
            raise
        raise VitrellisError(
            f"{run.path}: another process of this run has ended, or its machine cannot be reached. "
            "Its own message says why. The same command continues from the last checkpoint"
        ) from error
