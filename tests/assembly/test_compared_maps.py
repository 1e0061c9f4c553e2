"""The maps that `show maps` draws are those that the run's guidance compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.training.tiny import guided_weights, tiny
from vitrellis.assembly.compared_maps import guided_maps
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import forward_with_maps
from vitrellis.report.look_inside import draw_maps
from vitrellis.runs.exported import load_exported

LOCALITY = {"student_blocks": [0, 3], "teacher_blocks": [0, 2]}


def test_maps_before_and_after_the_projection(tmp_path: Path) -> None:
    finished = tiny(
        tmp_path,
        training__epochs=1,
        teacher={"model": "cifar_resnet8"},
        objective={"locality": LOCALITY},
    )
    images = list(torch.randint(0, 256, (2, 3, 30, 28), dtype=torch.uint8))
    trained = finished.model()
    pairs = guided_maps(finished.run, trained, images)
    assert [pair.name for pair in pairs] == ["block 0 → stage 0", "block 3 → stage 2"]
    seen = trained.preprocessing.transform()(images)
    with torch.no_grad():
        _, student_maps = forward_with_maps(trained.model, seen, [0, 3])
        teacher = load_exported(finished.run.teacher_model("teacher")).model
        _, teacher_maps = forward_with_maps(teacher, seen, [0, 2])
    learned = guided_weights(finished)
    for number, pair in enumerate(pairs):
        prefix = f"objective.terms.locality.projections.{number}"
        weight, bias = learned[f"{prefix}.weight"], learned[f"{prefix}.bias"]
        torch.testing.assert_close(pair.student, student_maps[number])
        torch.testing.assert_close(pair.teacher, teacher_maps[number])
        assert pair.projected is not None
        expected = F.conv2d(student_maps[number], weight, bias)
        torch.testing.assert_close(pair.projected, expected)
    figure = draw_maps(trained, images, pairs, names=["a", "b"])
    assert len(figure.axes) == 2 * (1 + 2 * 3)
    finished.run.best_checkpoint.unlink()
    finished.run.last_checkpoint.unlink()
    with pytest.raises(VitrellisError, match=r"last\.ckpt: does not exist"):
        guided_maps(finished.run, trained, images)


def test_maps_that_are_not_projected(tmp_path: Path) -> None:
    finished = tiny(
        tmp_path,
        training__epochs=1,
        teacher={"model": "cifar_resnet8"},
        objective={"locality": {**LOCALITY, "transform": "attention"}},
    )
    images = list(torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8))
    pairs = guided_maps(finished.run, finished.model(), images)
    assert [pair.projected for pair in pairs] == [None, None]
    drawn = draw_maps(finished.model(), images, pairs).axes[2].images[0].get_array()
    assert np.asarray(drawn).shape == (*pairs[0].student.shape[-2:], 3)


def test_a_run_without_guidance(tmp_path: Path) -> None:
    finished = tiny(tmp_path, training__epochs=1)
    with pytest.raises(UsageError, match="without locality guidance"):
        guided_maps(finished.run, finished.model(), [])
