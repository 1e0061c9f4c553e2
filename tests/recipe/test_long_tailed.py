"""The long-tailed recipes against the published settings, written down here a second time."""

from __future__ import annotations

from typing import Any

import pytest

from vitrellis.recipe import Recipe, effective_lr, load_recipe
from vitrellis.recipe.files import header, teacher_recipe

PUBLISHED_FOR_STUDENTS = {
    "data.val_fraction": 0,
    "data.long_tail.profile": "exp",
    "data.long_tail.factor": 100,
    "data.long_tail.seed": 0,
    "data.long_tail.permute": False,
    "data.sampler": "uniform",
    "input.img_size": 224,
    "input.normalization": "imagenet",
    "augmentation.crop": "resized",
    "augmentation.rand_augment": "rand-m9-mstd0.5-inc1",
    "augmentation.erasing": 0.25,
    "augmentation.mixup": 0.8,
    "augmentation.cutmix": 1,
    "augmentation.mix_switch": 0.5,
    "augmentation.repeats": 3,
    "teacher.resize": "bicubic",
    "teacher.mode": "eval",
    "model.name": "deit_base_distilled_patch16_224",
    "model.args": {"drop_path_rate": 0.1},
    "objective.cross_entropy.weight": 0.5,
    "objective.cross_entropy.loss": "softmax",
    "objective.cross_entropy.label_smoothing": 0.1,
    "objective.hard.weight": 0.5,
    "objective.hard.head": "distillation",
    "deferred.after_epochs": 1100,
    "deferred.reweight": "distillation",
    "deferred.beta": 0.9999,
    "deferred.mixing": False,
    "deferred.smoothing": False,
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.05,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 5,
    "schedule.min_lr": 1e-5,
    "training.epochs": 1200,
    "training.batch_size": 1024,
    "training.precision": "16-mixed",
    "training.ema": None,
}

PUBLISHED_FOR_TEACHERS = {
    "input.img_size": 32,
    "input.normalization": "cifar",
    "augmentation.crop": "padded",
    "augmentation.padding": 4,
    "augmentation.flip": 0.5,
    "augmentation.rand_augment": None,
    "augmentation.mixup": 0,
    "augmentation.repeats": 1,
    "model.name": "cifar_resnet32",
    "model.args": {"shortcut": "pad", "cosine": True},
    "objective.cross_entropy.loss": "ldam",
    "objective.cross_entropy.margin": 0.5,
    "objective.cross_entropy.scale": 30,
    "objective.cross_entropy.label_smoothing": 0,
    "deferred.after_epochs": 160,
    "deferred.reweight": "class",
    "deferred.beta": 0.9999,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 2e-4,
    "schedule.name": "step",
    "schedule.milestones": (160, 180),
    "schedule.factors": (0.01, 0.0001),
    "training.epochs": 200,
    "training.batch_size": 128,
}


def values(recipe: Recipe, keys: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = value
    return found


@pytest.mark.parametrize("name", ["cifar10-lt", "cifar100-lt"])
def test_students_are_as_published(name: str) -> None:
    recipe = load_recipe(f"{name}-deit-b")
    assert values(recipe, PUBLISHED_FOR_STUDENTS) == PUBLISHED_FOR_STUDENTS
    assert recipe.data.source == name.removesuffix("-lt")
    assert effective_lr(recipe) == 2.5e-4
    assert effective_lr(recipe) * recipe.schedule.warmup_factor == pytest.approx(1e-6)


@pytest.mark.parametrize("name", ["cifar10-lt", "cifar100-lt"])
def test_teachers_are_as_published(name: str) -> None:
    recipe = load_recipe(f"{name}-resnet32")
    assert values(recipe, PUBLISHED_FOR_TEACHERS) == PUBLISHED_FOR_TEACHERS
    assert effective_lr(recipe) == 0.1
    student = load_recipe(f"{name}-deit-b")
    assert values(teacher_recipe(student), PUBLISHED_FOR_TEACHERS) == PUBLISHED_FOR_TEACHERS


@pytest.mark.parametrize(
    ("name", "top1"),
    [
        ("cifar10-lt-deit-b", "87.5"),
        ("cifar100-lt-deit-b", "55.6"),
        ("cifar10-lt-resnet32", "77.0"),
        ("cifar100-lt-resnet32", "42.0"),
    ],
)
def test_published_figures_are_quoted(name: str, top1: str) -> None:
    assert any(line.startswith(f"Published:  {top1}") for line in header(name).splitlines())


def test_arms_on_the_same_tail_differ_only_in_what_they_are_called_for() -> None:
    alone, drw, balanced = (
        load_recipe(f"fashion-lt-{arm}").model_dump(exclude={"name", "description"})
        for arm in ("alone", "drw", "balanced")
    )
    assert drw.pop("deferred")["reweight"] == "class"
    assert alone.pop("deferred") is None
    assert drw == alone
    assert balanced.pop("deferred") is None
    assert balanced["objective"]["cross_entropy"].pop("loss") == "balanced_softmax"
    assert alone["objective"]["cross_entropy"].pop("loss") == "softmax"
    assert balanced == alone


def test_a_teacher_is_shown_classes_as_its_own_recipe_says() -> None:
    student = load_recipe("fashion-lt-deit-lt", ["data.sampler=class_balanced"])
    assert teacher_recipe(student).data.sampler == "uniform"
