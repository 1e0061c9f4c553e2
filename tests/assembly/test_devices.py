"""The settings of a run that only GPUs, or several devices, feel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import nn

from tests.training.command import FEW_IMAGES, TINY, finish, start
from tests.training.tiny import tiny
from vitrellis.assembly import summary
from vitrellis.assembly.parts import synchronize_batch_norms
from vitrellis.errors import VitrellisError
from vitrellis.models import create_model
from vitrellis.objectives import CrossEntropy, Objective
from vitrellis.recipe import recipe_from
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.guided import GuidedStudent
from vitrellis.training.trainer import Trainer


@pytest.mark.parametrize(("value", "tf32"), [("highest", False), ("high", True)])
def test_matrix_products_have_the_precision_of_the_recipe(
    tmp_path: Path, value: str, tf32: bool
) -> None:
    """It is torch's own setting, and the caller's comes back, after an error as well."""
    seen = []
    step = Trainer.train_step

    def look(self: Trainer, *arguments: Any) -> None:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32))
        if len(seen) == 4:
            raise VitrellisError("stop")
        step(self, *arguments)

    torch.set_float32_matmul_precision("medium")
    try:
        with mock.patch.object(Trainer, "train_step", look), pytest.raises(VitrellisError):
            tiny(tmp_path, training__matmul_precision=value)
        assert set(seen) == {(value, tf32)}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("device", "value", "words"),
    [
        ("cuda", "highest", " (matrix products: highest, convolutions: TF32)"),
        ("cuda", "high", " (matrix products: high, convolutions: TF32)"),
        ("cpu", "highest", ""),
        ("cpu", "medium", " (matrix products: medium)"),
    ],
)
def test_the_summary_says_which(device: str, value: str, words: str) -> None:
    recipe = recipe_from(
        {"model": {"name": "x"}, "training": {"epochs": 1, "matmul_precision": value}}
    )
    assert summary._inside(recipe, torch.device(device)) == words


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_synchronised_batch_norms_keep_names_values_and_activations(name: str) -> None:
    """The second has timm's batch norms with an activation inside."""
    torch.manual_seed(0)
    student = create_model(name, num_classes=3)
    guided = GuidedStudent(student, Objective([CrossEntropy()]))
    parameters = dict(guided.named_parameters())
    state = {key: value.clone() for key, value in student.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = student.eval()(images)
    synchronize_batch_norms(guided, Teachers({}))
    norms = [m for m in guided.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert all(value is parameters[key] for key, value in guided.named_parameters())
    assert list(student.state_dict()) == list(state)
    for key, value in student.state_dict().items():
        assert torch.equal(value, state[key])
    with torch.no_grad():
        torch.testing.assert_close(student(images), expected)


def test_they_cannot_be_synchronised_on_the_cpu(tmp_path: Path) -> None:
    words = ["train", "demo-alone", *(word for word in TINY if "teacher" not in word)]
    words = [word for word in words if "locality" not in word]
    words += [FEW_IMAGES, "training.sync_batchnorm=true", "machine.devices=2", "--out", "runs/x"]
    said = finish(start(*words, cwd=tmp_path), code=2)
    assert said.count("error: training.sync_batchnorm: torch synchronises batch norms of GPUs") == 1
    assert "error in process" not in said


def test_the_summary_says_that_they_are() -> None:
    recipe = recipe_from(
        {"model": {"name": "x"}, "training": {"epochs": 1, "sync_batchnorm": True}}
    )
    for count, words in ((1, ""), (2, ", batch norms synchronised")):
        fabric = cast(Any, SimpleNamespace(world_size=count))
        assert summary._synchronized(recipe, fabric) == words
