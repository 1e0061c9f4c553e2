"""Every architecture of the field learns under guidance, on real images, in a few hundred steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.command import run
from vitrellis.runs.directory import RunDirectory

# three blocks of each that are guided, over its depth
STUDENTS = {
    "deit_tiny_patch16_224": [0, 6, 11],
    "t2t_vit_7": [0, 3, 6],
    "pit_ti_224": [0, 6, 11],
    "pvt_tiny": [0, 3, 7],
    "pvt_v2_b0": [0, 3, 7],
    "convit_tiny": [0, 6, 11],
    "cvt_13": [0, 6, 12],
    "dhvt_tiny_cifar_patch4": [0, 6, 11],
    "evit_deit_tiny_patch16_224": [0, 6, 11],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All students share the teacher that the first of them has trained."""
    return tmp_path_factory.mktemp("families")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), STUDENTS.items())
def test_loss_and_guidance_fall(place: Path, name: str, blocks: list[int]) -> None:
    size = 32 if "dhvt" in name else 64
    words = [f"model.name={name}", f"input.img_size={size}", "data.train_size=400"]
    words += ["training.batch_size=16", "training.epochs=9", "training.eval_every=9"]
    words += ["schedule.warmup_epochs=1", "optimizer.lr=5e-4", "objective.kd=null"]
    words += [f"objective.locality.student_blocks={blocks}"]
    out = place / name
    run("train", "demo", *words, "--out", str(out), cwd=place)
    rows = RunDirectory(out).read_metrics()
    first, last = rows[0], rows[-1]
    assert last.step >= 200
    assert last.parts["cross_entropy"] < 0.9 * first.parts["cross_entropy"]
    assert last.parts["locality"] < 0.9 * first.parts["locality"]
    assert (last.val_top1 or 0) > 0.3
