"""A teacher sees its student's images in its own normalisation, or just as the student does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor

from vitrellis import from_tensors
from vitrellis.assembly.load_teachers import load_teachers
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.recipe import load_recipe, recipe_from
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, save_model
from vitrellis.teachers.teacher import Teacher

STUDENT = Preprocessing((32, 32), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
OWN = replace(STUDENT, mean=(0.49, 0.48, 0.45), std=(0.2, 0.21, 0.22))
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def source() -> Source:
    images = (IMAGES * 255).to(torch.uint8)
    return from_tensors(images, torch.arange(4) % 2, class_names=["a", "b"])


def loaded(folder: Path, teacher: dict[str, Any], shown: Preprocessing) -> Teacher:
    recipe = recipe_from(
        {"extends": "demo-alone", "teacher": {"run": "there"} | teacher, "objective": {"kd": {}}}
    )
    run = RunDirectory(folder)
    model = create_model(
        "cifar_resnet8", num_classes=2, img_size=shown.img_size, in_chans=shown.channels
    )
    save_model(
        model,
        run.teacher_model("teacher"),
        architecture="cifar_resnet8",
        num_classes=2,
        model_args={},
        class_names=["a", "b"],
        preprocessing=shown,
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    teachers = load_teachers(recipe, run, source(), STUDENT, fabric, {}, {})
    return dict(teachers.items())["teacher"]


def normalized(images: Tensor, shown: Preprocessing) -> Tensor:
    mean, std = torch.tensor(shown.mean).view(3, 1, 1), torch.tensor(shown.std).view(3, 1, 1)
    return (images - mean) / std


def test_a_teacher_has_its_own_normalization(tmp_path: Path) -> None:
    seen = loaded(tmp_path, {}, OWN).view(normalized(IMAGES, STUDENT))
    torch.testing.assert_close(seen, normalized(IMAGES, OWN), rtol=1e-5, atol=1e-5)


def test_a_teacher_can_be_given_what_the_student_gets(tmp_path: Path) -> None:
    """As in DeiT-LT's engine.py, where `samples_teacher` is `samples_student`."""
    images = normalized(IMAGES, STUDENT)
    seen = loaded(tmp_path, {"normalization": "student"}, OWN).view(images)
    assert torch.equal(seen, images)


def test_a_grey_teacher_cannot_be_given_a_coloured_students_numbers(tmp_path: Path) -> None:
    grey = replace(OWN, channels=1, mean=(0.5,), std=(0.2,))
    with pytest.raises(
        UsageError, match=r"teacher\.normalization: student, but it takes 1 channel"
    ):
        loaded(tmp_path, {"normalization": "student"}, grey)


@pytest.mark.parametrize("name", ["cifar10-lt-deit-b", "inaturalist-2018-deit-b"])
def test_the_teachers_of_deit_lt_are_given_the_students_images(name: str) -> None:
    teacher = load_recipe(name).teacher
    assert teacher is not None
    assert teacher.normalization == "student"
