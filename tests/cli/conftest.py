"""Runs that short trainings made, images beside them, and a Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import run_apart, run_here
from vitrellis.data.sources import Split, load_source

ROOT = Path(__file__).parents[2]
SRUN = Path("/opt/slurm-bin")
"""Where srun may be kept, so that Lightning's warning about it does not reach other tests."""
QUICK = ["training.epochs=1", "schedule.warmup_epochs=0", "training.batch_size=16"]
QUICK += ["machine.threads=1", "machine.accelerator=cpu"]


@pytest.fixture(scope="session")
def test_images() -> Split:
    test = load_source("fashion-mnist", None).test
    assert test is not None
    return test


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, test_images: Split) -> Path:
    """A folder with `runs/x`, and the first eight test images as files in `images`."""
    folder = tmp_path_factory.mktemp("place")
    words = ["data.train_size=60", "model.name=vit_micro_patch7_28", "--out", "runs/x"]
    run_apart("train", "demo-alone", *QUICK, *words, cwd=folder)
    (folder / "images" / "more").mkdir(parents=True)
    for index in range(8):
        where = folder / "images" / ("more" if index > 5 else "")
        Image.fromarray(test_images.images[index][0].numpy()).save(where / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def photo_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with colour `photos` of two classes and `runs/photos`, trained on them."""
    folder = tmp_path_factory.mktemp("photo-place")
    pixels = np.random.default_rng(0)
    for name in ("ash", "fir"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(10):
            image = pixels.integers(0, 255, (20, 24 + index, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "photos" / name / f"{index}.png")
    words = ["data.root=photos", "model.name=vit_micro_patch8_64", "--out", "runs/photos"]
    run_here("train", "photos-alone", *QUICK, *words, cwd=folder)
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm of two nodes on this machine; see `tools/local_slurm.sh`."""
    monkeypatch.setenv("PATH", f"{SRUN}:{os.environ['PATH']}:/usr/sbin")
    if os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "srun"))):
        pytest.skip("needs root, and slurmctld, slurmd, slurm-client and munge of Debian")
    folder = tmp_path / "slurm-folder"
    script = str(ROOT / "tools" / "local_slurm.sh")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # node1 and node2 have no addresses
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    subprocess.run([script, "start", str(folder)], check=True, capture_output=True, timeout=60)
    yield
    subprocess.run([script, "stop", str(folder)], check=True, timeout=60)
