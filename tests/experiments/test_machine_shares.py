"""How cores and GPUs are divided among trainings that run at the same time."""

from __future__ import annotations

import pytest

from vitrellis.errors import UsageError
from vitrellis.experiments.machine_shares import divided, visible_gpus
from vitrellis.recipe import recipe_from


@pytest.mark.parametrize(
    ("jobs", "devices", "cores", "threads"),
    [(1, 1, 8, 8), (3, 1, 8, 2), (2, 2, 8, 2), (4, 1, 2, 1)],
)
def test_cores_are_divided(jobs: int, devices: int, cores: int, threads: int) -> None:
    shares = divided(jobs, devices=devices, cores=cores, gpus=[])
    assert [(s.threads, s.gpus, s.is_alone) for s in shares] == [(threads, (), False)] * jobs


def test_each_training_has_gpus_of_its_own_if_there_are_enough() -> None:
    shares = divided(2, devices=2, cores=16, gpus=["4", "5", "6", "7", "8"])
    assert [share.gpus for share in shares] == [("4", "5"), ("6", "7")]
    assert all(share.is_alone for share in shares)
    assert shares[1].environment == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "6,7"}


def test_otherwise_they_share_them() -> None:
    shares = divided(3, devices=1, cores=4, gpus=["0", "1"])
    assert [share.gpus for share in shares] == [("0",), ("1",), ("0",)]
    assert not any(share.is_alone for share in shares)
    with pytest.raises(UsageError, match=r"--jobs 2: needs 4 GPUs.*Use --jobs 1"):
        divided(2, devices=2, cores=4, gpus=["0", "1", "2"])


def test_a_recipe_keeps_the_threads_that_it_asks_for() -> None:
    (share,) = divided(1, devices=1, cores=6, gpus=[])
    values = {"model": {"name": "x"}, "training": {"epochs": 1}}
    machine = share.of(recipe_from(values)).machine
    assert (machine.threads, machine.workers) == (6, 6)
    machine = share.of(recipe_from(values, ["machine.threads=2", "machine.workers=0"])).machine
    assert (machine.threads, machine.workers) == (2, 0)


def test_gpus_that_this_process_may_not_use_are_not_given_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert visible_gpus() == ["3", "1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
