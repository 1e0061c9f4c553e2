"""The contrasting teachers against the published settings, written down here a second time."""

from __future__ import annotations

import math

import pytest

from tests.recipe.published import values
from vitrellis.recipe import effective_lr, header, load_recipe, teacher_recipe
from vitrellis.training.optimizers import LearningRate

SMALL = ["cifar10-lt-resnet32-paco", "cifar100-lt-resnet32-paco"]
LARGE = ["imagenet-lt-resnet50-paco", "inaturalist-2018-resnet50-paco"]
SOURCES = dict(
    zip(SMALL + LARGE, ["cifar10", "cifar100", "imagenet-lt", "inaturalist-2018"], strict=True)
)
RADIUS = 0.1
"""The radius of SAM, which is not published."""

PUBLISHED_FOR_ALL = {
    "augmentation.flip": 0.5,
    "augmentation.erasing": 0,
    "augmentation.mixup": 0,
    "augmentation.cutmix": 0,
    "augmentation.repeats": 1,
    "augmentation.second_view.crop": "resized",
    "augmentation.second_view.ratio": (pytest.approx(3 / 4), pytest.approx(4 / 3)),
    "augmentation.second_view.interpolation": "bilinear",
    "augmentation.second_view.flip": 0.5,
    "augmentation.second_view.rand_augment": None,
    "augmentation.second_view.auto_augment": None,
    "augmentation.second_view.grayscale": 0.2,
    "augmentation.second_view.blur": 0.5,
    "augmentation.second_view.blur_sigma": (0.1, 2),
    "augmentation.second_view.erasing": 0,
    "augmentation.second_view.cutout": 0,
    "objective.cross_entropy.weight": 0,
    "objective.paco.weight": 1,
    "objective.paco.beta": 1,
    "objective.paco.gamma": 1,
    "objective.paco.momentum": 0.999,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.decay_all": True,
    "training.epochs": 400,
    "training.batch_size": 128,
    "training.accumulate": 1,
    "training.drop_last": True,
}

PUBLISHED_FOR_SMALL_SETS = {
    "data.long_tail.profile": "exp",
    "data.long_tail.imbalance_factor": 100,
    "data.long_tail.seed": 0,
    "data.val_fraction": 0,
    "input.img_size": 32,
    "input.normalization": "cifar",
    "augmentation.crop": "padded",
    "augmentation.padding": 4,
    "augmentation.rand_augment": None,
    "augmentation.auto_augment": "cifar10",
    "augmentation.color_jitter": (0, 0, 0, 0),
    "augmentation.grayscale": 0,
    "augmentation.blur": 0,
    "augmentation.cutout": 16,
    "augmentation.second_view.scale": (0.2, 1),
    "augmentation.second_view.color_jitter": (0.4, 0.4, 0.4, 0.1),
    "augmentation.second_view.color_jitter_probability": 0.8,
    "model.name": "cifar_resnet32",
    "model.args": {"shortcut": "pad", "weight_init": "paco"},
    "objective.paco.temperature": 0.05,
    "objective.paco.alpha": 0.01,
    "objective.paco.dimension": 32,
    "objective.paco.queue": 1024,
    "optimizer.weight_decay": 5e-4,
    "schedule.name": "step",
    "schedule.warmup_epochs": 10,
    "schedule.milestones": (320, 360),
    "schedule.factors": (0.1, 0.01),
}

PUBLISHED_FOR_LARGE_SETS = {
    "input.img_size": 224,
    "augmentation.crop": "resized",
    "augmentation.scale": (0.08, 1),
    "augmentation.interpolation": "bilinear",
    "augmentation.rand_augment": "rand-n2-m10-mstd0.5",
    "augmentation.auto_augment": None,
    "augmentation.color_jitter": (0.4, 0.4, 0.4, 0),
    "augmentation.color_jitter_probability": 1,
    "augmentation.grayscale": 0,
    "augmentation.blur": 0,
    "augmentation.cutout": 0,
    "augmentation.second_view.scale": (0.08, 1),
    "augmentation.second_view.color_jitter": (0.4, 0.4, 0.4, 0),
    "augmentation.second_view.color_jitter_probability": 1,
    "model.name": "resnet50",
    "model.args": {"zero_init_last": False},
    "objective.paco.temperature": 0.2,
    "objective.paco.alpha": 0.05,
    "objective.paco.dimension": 128,
    "objective.paco.queue": 8192,
    "schedule.name": "cosine",
    "schedule.min_lr": 0,
}


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_what_all_share_is_as_published(name: str) -> None:
    recipe = load_recipe(name)
    assert values(recipe, PUBLISHED_FOR_ALL) == PUBLISHED_FOR_ALL
    assert recipe.data.source == SOURCES[name]


@pytest.mark.parametrize("name", SMALL)
def test_small_sets_are_as_published(name: str) -> None:
    recipe = load_recipe(name)
    assert values(recipe, PUBLISHED_FOR_SMALL_SETS) == PUBLISHED_FOR_SMALL_SETS
    assert effective_lr(recipe) == 0.05


@pytest.mark.parametrize(("name", "weight_decay"), [(LARGE[0], 5e-4), (LARGE[1], 1e-4)])
def test_large_sets_are_as_published(name: str, weight_decay: float) -> None:
    recipe = load_recipe(name)
    assert values(recipe, PUBLISHED_FOR_LARGE_SETS) == PUBLISHED_FOR_LARGE_SETS
    assert recipe.optimizer.weight_decay == weight_decay
    assert effective_lr(recipe) == 0.02


def test_inaturalist_is_normalised_by_its_own_colours() -> None:
    assert load_recipe(LARGE[0]).input.normalization == "imagenet"
    statistics = values(
        load_recipe(LARGE[1]), {"input.normalization.mean": 0, "input.normalization.std": 0}
    )
    assert list(statistics.values()) == [(0.466, 0.471, 0.380), (0.195, 0.194, 0.192)]


@pytest.mark.parametrize("name", LARGE)
def test_the_rate_of_large_sets_moves_as_published(name: str) -> None:
    """`adjust_learning_rate` of the published paco_lt.py."""
    recipe = load_recipe(name)
    schedule = recipe.schedule
    rate = LearningRate(
        name=schedule.name,
        epochs=recipe.training.epochs,
        steps_per_epoch=7,
        warmup_epochs=schedule.warmup_epochs,
        warmup_factor=schedule.warmup_factor,
        min_lr=schedule.min_lr,
        per=schedule.per,
        shift_cosine=schedule.shift_cosine,
    )
    for epoch in range(400):
        share = 0.5 * (1 + math.cos(math.pi * (epoch - 10 + 1) / (400 - 10 + 1)))
        expected = 0.02 / 10 * (epoch + 1) if epoch < 10 else 0.02 * share
        assert rate.at(epoch, 3, 0.02) == pytest.approx(expected, rel=1e-9)


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
