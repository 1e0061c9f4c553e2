"""`compare` and `sweep` on clusters: what is refused, a real Ray, and a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import assert_one_error, run_apart, vitrellis
from tests.training.command import FEW_IMAGES, write_few_images

WORDS = ["compare", "demo-alone", "demo-vit-alone", FEW_IMAGES, "data.train_size=60"]
WORDS += ["model.name=vit_micro_patch7_28", "training.epochs=1", "schedule.warmup_epochs=0"]
WORDS += ["machine.threads=1", "machine.accelerator=cpu", "--seeds", "2", "--json"]


def figures(*words: str, cwd: Path) -> list[dict[str, Any]]:
    rows = json.loads(run_apart(*WORDS, *words, cwd=cwd).out)["rows"]
    return [{key: row[key] for key in ("arm", "unit", "figures", "val_top1")} for row in rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm", "", "--ray", "auto"], "--slurm and --ray: choose one"),
        (["--slurm", "gpu"], "--slurm 'gpu': holds the options of sbatch, such as"),
        (["--slurm", "--comment='x"], "No closing quotation"),
        (["--slurm", ""], "--slurm: sbatch is not on the PATH"),
        (["--slurm", "", "--equal", "seconds"], "so that their seconds are not comparable"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    if "seconds" in words:
        for program in ("sbatch", "squeue", "scancel"):
            (tmp_path / "bin" / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    ended = vitrellis("compare", "demo-alone", *words, cwd=tmp_path)
    assert_one_error(ended, 2, message)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def ray_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray of two workers on this machine."""
    ray = Path(sys.executable).parent / "ray"
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start = [str(ray), "start", "--head", "--num-cpus=2", "--num-gpus=0", "--port=0"]
    start += ["--include-dashboard=false", "--disable-usage-stats"]
    subprocess.run(start, check=True, capture_output=True, timeout=120)
    yield
    subprocess.run([str(ray), "stop"], check=True, capture_output=True, timeout=120)


@pytest.mark.slow
def test_on_ray_the_figures_are_those_of_this_machine(tmp_path: Path, ray_cluster: None) -> None:
    del ray_cluster
    write_few_images(tuple(WORDS), tmp_path)
    there = figures("--ray", "auto", "--jobs", "3", "--out", "runs/ray", cwd=tmp_path)
    assert there == figures("--out", "runs/here", cwd=tmp_path)
    assert "epoch 1/1" in (tmp_path / "runs/ray/logs/seed0-demo-alone.log").read_text()
    ended = run_apart(*WORDS, "--ray", "auto", "machine.threads=3", cwd=tmp_path, code=2)
    assert "no machine of the cluster has 3 cores (machine.threads)" in ended.err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_where_no_ray_is_it_says_how_to_start_one(tmp_path: Path, address: str) -> None:
    ended = vitrellis("compare", "demo-alone", "--ray", address, cwd=tmp_path)
    assert_one_error(ended, 2, f"--ray {address}: no Ray cluster is there")
    assert "`ray start --head`" in ended.stderr


@pytest.mark.slow
def test_as_jobs_of_slurm_the_figures_are_those_of_this_machine(
    tmp_path: Path, slurm: None
) -> None:
    del slurm
    write_few_images(tuple(WORDS), tmp_path)
    options = ["--slurm", "--time=0:10:00", "--out", "runs/slurm"]
    there = figures(*options, cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs/slurm/logs").glob("*.exit")) == [
        f"{unit}-{arm}.exit" for unit in ("seed0", "seed1") for arm in WORDS[1:3]
    ]
    os.environ.pop("MASTER_ADDR")
    assert there == figures("--out", "runs/here", cwd=tmp_path)
    wrong = ["--slurm", "--partition=nosuch", "--jobs", "2", "--out", "runs/wrong"]
    ended = run_apart(*WORDS, *wrong, cwd=tmp_path, code=1)
    assert "Slurm: invalid partition specified: nosuch" in ended.err
