"""The contrasting teachers: with SAM and without, and as teachers of DeiT-LT."""

from __future__ import annotations

import pytest

from vitrellis.recipe import header, load_recipe, teacher_recipe

SMALL = ["cifar10-lt-resnet32-paco", "cifar100-lt-resnet32-paco"]
LARGE = ["imagenet-lt-resnet50-paco", "inaturalist-2018-resnet50-paco"]
RADIUS = 0.1
"""The radius of SAM, which is not published."""


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_sam_is_all_that_is_added(name: str) -> None:
    plain, sharp = load_recipe(name), load_recipe(f"{name}-sam")
    assert plain.optimizer.sam is None
    assert sharp.optimizer.sam is not None
    assert sharp.optimizer.sam.rho == RADIUS
    optimizer = sharp.optimizer.model_copy(update={"sam": None})
    changes = {"name": name, "description": plain.description, "optimizer": optimizer}
    assert sharp.model_copy(update=changes) == plain
    assert "0.1 is our choice" in header(f"{name}-sam")


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_they_teach_the_students_of_deit_lt(name: str) -> None:
    images = name.removesuffix("-paco").removesuffix("-resnet32").removesuffix("-resnet50")
    student = load_recipe(f"{images}-deit-b")
    assert student.teacher is not None
    assert student.teacher.recipe == f"{name}-sam"
    teacher = teacher_recipe(student)
    assert teacher.objective.paco is not None
    assert teacher.augmentation == load_recipe(name).augmentation
    assert f"teacher.recipe={alternative(name)}" in header(student.name)
    other = load_recipe(student.name, [f"teacher.recipe={alternative(name)}"])
    assert teacher_recipe(other).objective.cross_entropy.loss == "ldam"


def alternative(name: str) -> str:
    """The LDAM-DRW + SAM teacher on the same images."""
    return name.removesuffix("-paco") + ("-sam" if name in SMALL else "")


@pytest.mark.parametrize(("name", "top1"), [(LARGE[0], "57.0"), (LARGE[1], "73.2")])
def test_published_figures_are_quoted(name: str, top1: str) -> None:
    assert f"Published:  {top1}" in header(name).splitlines()
