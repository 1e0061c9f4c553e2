"""What torchrun and Slurm say about the processes that they start, and what all agree on."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
import torch.distributed as dist  # noqa: TID251
import torch.multiprocessing

from vitrellis.assembly.processes import (
    ProcessGroup,
    Strategy,
    check_same_files,
    launched_fabric,
    others_may_end,
    others_wait,
    started_together,
)
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.runs.checkpoints import CheckpointsInPlace
from vitrellis.runs.directory import RunDirectory

VARIABLES = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
SLURM = ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_PROCID", "SLURM_JOB_NAME")


def torchrun(everywhere: int, here: int, machines: int) -> dict[str, str]:
    values = ("none", str(everywhere), str(here), str(machines))
    return dict(zip(VARIABLES, values, strict=True))


def slurm(tasks: int, nodes: int, name: str = "train") -> dict[str, str]:
    return dict(zip(SLURM, (str(tasks), str(nodes), "0", name), strict=True))


def set_variables(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in (*VARIABLES, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        (torchrun(1, 1, 1), None),
        (torchrun(8, 4, 2), ProcessGroup("torchrun", 2, 4)),
        (slurm(8, 2), ProcessGroup("Slurm", 2, 4)),
        (slurm(1, 1), None),
        (slurm(2, 1, "interactive"), None),  # a shell in a job of two tasks
        (torchrun(2, 2, 1) | slurm(8, 2), ProcessGroup("torchrun", 1, 2)),  # torchrun within a job
    ],
)
def test_what_started_them(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], expected: ProcessGroup | None
) -> None:
    set_variables(monkeypatch, values)
    assert started_together() == expected


def test_machines_have_as_many_processes_as_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, slurm(3, 2))
    with pytest.raises(UsageError, match=r"3 processes on 2 machines.*--ntasks-per-node"):
        started_together()


def test_a_recipe_does_not_ask_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, torchrun(4, 2, 2))
    with pytest.raises(UsageError, match=r"machine\.devices: 3, but torchrun started 2 on each"):
        launched_fabric("cpu", 3, "32-true")


def test_a_process_of_a_slurm_job_may_be_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, slurm(1, 1))
    fabric = launched_fabric("cpu", 1, "32-true")
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_one_device_writes_checkpoints_in_place_with_any_strategy() -> None:
    for strategy in get_args(Strategy):
        fabric = launched_fabric("cpu", 1, "32-true", strategy)
        assert isinstance(fabric.strategy.checkpoint_io, CheckpointsInPlace)


class Together:
    """Stands for Fabric in threads: `broadcast` hands a value from one to all."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.barrier = threading.Barrier(world_size, timeout=20)
        self.value: Any = None

    def process(self, rank: int) -> Any:
        def broadcast(value: Any, src: int = 0) -> Any:
            if rank == src:
                self.value = value
            self.barrier.wait()
            received = self.value
            self.barrier.wait()
            return received

        return SimpleNamespace(world_size=self.world_size, global_rank=rank, broadcast=broadcast)


@pytest.mark.parametrize(
    ("seen", "fingerprints", "message"),
    [
        ((True, True), ("a", "a"), None),
        ((True, False), ("a", "a"), "process 1 on .* does not see it.*folder that all machines"),
        ((True, True), ("a", "b"), "data.root: process 1 on .* sees other images"),
    ],
)
def test_all_machines_see_the_same_files(
    tmp_path: Path, seen: tuple[bool, ...], fingerprints: tuple[str, ...], message: str | None
) -> None:
    together = Together(2)
    errors: dict[int, str] = {}

    def check(rank: int) -> None:
        run = RunDirectory(tmp_path / ("seen" if seen[rank] else "other"))
        run.path.mkdir(exist_ok=True)
        if seen[rank]:
            run.marker_file.touch()
        try:
            check_same_files(cast(Any, together.process(rank)), run, fingerprints[rank])
        except UsageError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=check, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if message is None:
        assert errors == {}
        return
    assert errors.keys() == {0, 1}  # so that none waits for the other
    with pytest.raises(UsageError, match=message):
        raise UsageError(errors[0])


def test_the_end_of_another_process_is_an_error_in_words(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with (
        pytest.raises(VitrellisError, match="another process of this run has ended"),
        others_may_end(run),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:1234")
    with pytest.raises(RuntimeError, match="shape"), others_may_end(run):
        raise RuntimeError("shape mismatch")


def wait_for_the_first(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=2),
    )
    with others_wait(cast(Any, SimpleNamespace(world_size=2))):
        if rank == 0:
            time.sleep(4)
            Path(folder, "taught").touch()
    assert Path(folder, "taught").exists()
    dist.destroy_process_group()


def test_the_first_process_may_take_longer_than_torch_waits(tmp_path: Path) -> None:
    """As where it waits for a run that trains the teacher of both."""
    torch.multiprocessing.start_processes(
        wait_for_the_first, (str(tmp_path),), nprocs=2, start_method="fork"
    )
    assert (tmp_path / "taught").exists()  # and neither process has failed
