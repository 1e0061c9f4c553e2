"""The long-tailed recipes against the published settings, written down here a second time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.recipe.published import values
from vitrellis.objectives.cross_entropy import LogitAdjustment, smoothed
from vitrellis.recipe import (
    differences,
    effective_lr,
    header,
    load_recipe,
    recipe_from,
    teacher_recipe,
)

PUBLISHED_FOR_STUDENTS = {
    "data.val_fraction": 0,
    "data.long_tail.profile": "exp",
    "data.long_tail.imbalance_factor": 100,
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

PUBLISHED_TOP1 = {
    "cifar10-lt-deit-b": "87.5",
    "cifar100-lt-deit-b": "55.6",
    "cifar10-lt-resnet32": "77.0",
    "cifar100-lt-resnet32": "42.0",
    "cifar10-lt-resnet32-sam": "81.9",
    "cifar100-lt-resnet32-sam": "45.4",
    "cifar10-lt-resnet32-ce-sam": "80.6",
    "cifar100-lt-resnet32-ce-sam": "44.6",
    "imagenet-lt-resnet50": "53.1",
    "imagenet-lt-deit-b": "59.1",
    "inaturalist-2018-resnet50": "70.1",
    "inaturalist-2018-deit-b": "75.1",
}


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
    student = load_recipe(f"{name}-deit-b", [f"teacher.recipe={name}-resnet32-sam"])
    assert values(teacher_recipe(student), PUBLISHED_FOR_TEACHERS) == PUBLISHED_FOR_TEACHERS


def test_published_figures_are_quoted() -> None:
    for name, top1 in PUBLISHED_TOP1.items():
        lines = header(name).splitlines()
        assert any(line.startswith(f"Published:  {top1}") for line in lines), name


@pytest.mark.parametrize(("classes", "rho"), [("10", 0.5), ("100", 0.8)])
def test_sharpness_aware_teachers_are_as_published(classes: str, rho: float) -> None:
    name = f"cifar{classes}-lt-resnet32"
    plain = values(load_recipe(name), PUBLISHED_FOR_TEACHERS)
    ldam, cross_entropy = load_recipe(f"{name}-sam"), load_recipe(f"{name}-ce-sam")
    assert values(ldam, PUBLISHED_FOR_TEACHERS) == plain
    assert ldam.optimizer.sam is not None
    assert ldam.optimizer.sam.rho == 0.8
    assert cross_entropy.optimizer.sam is not None
    assert cross_entropy.optimizer.sam.rho == rho
    assert cross_entropy.objective.cross_entropy.loss == "softmax"
    assert cross_entropy.model.args == {"shortcut": "pad", "cosine": False}


@pytest.mark.parametrize(
    ("name", "epochs", "drw"), [("imagenet-lt", 1400, 1200), ("inaturalist-2018", 1000, 900)]
)
def test_large_students_are_as_published(name: str, epochs: int, drw: int) -> None:
    recipe = load_recipe(f"{name}-deit-b")
    assert recipe.deferred is not None
    assert recipe.deferred.after_epochs == drw
    assert recipe.deferred.mixing
    assert recipe.training.epochs == epochs
    assert recipe.training.batch_size == 2048
    assert effective_lr(recipe) == 5e-4
    assert effective_lr(recipe) * recipe.schedule.warmup_factor == pytest.approx(1e-6)
    assert teacher_recipe(recipe).model.name == "resnet50"


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


def test_one_key_balances_student_and_teacher() -> None:
    plain, balanced = load_recipe("photos"), load_recipe("photos", ["balance=true"])
    for recipe in (balanced, teacher_recipe(balanced)):
        assert recipe.objective.cross_entropy.loss == "balanced_softmax"
        assert recipe.training.select_by == "balanced_accuracy"
    assert teacher_recipe(plain).objective.cross_entropy.loss == "softmax"
    assert differences(plain, balanced) == [
        "balance: false → true",
        "objective.cross_entropy.label_smoothing: 0.1 → 0.0",
        'objective.cross_entropy.loss: "softmax" → "balanced_softmax"',
        'training.select_by: "top1" → "balanced_accuracy"',
    ]
    assert recipe_from(balanced.model_dump(mode="json")) == balanced


def test_balance_favours_no_class_before_anything_is_learned() -> None:
    labels = load_recipe("photos-alone", ["balance=true"]).objective.cross_entropy
    counts = torch.tensor([647, 22, 39, 58, 78, 70])
    targets = F.one_hot(torch.arange(6).repeat_interleave(counts), 6).float()

    def slope_of_a_constant_answer(label_smoothing: float) -> torch.Tensor:
        answer = torch.zeros(6, requires_grad=True)
        loss = LogitAdjustment(counts)
        loss(answer.expand(len(targets), 6), smoothed(targets, label_smoothing)).backward()
        assert answer.grad is not None
        return answer.grad

    assert labels.loss == "balanced_softmax"
    assert slope_of_a_constant_answer(labels.label_smoothing).abs().max() < 1e-6
    assert slope_of_a_constant_answer(0.1).argmin() == 1  # the rarest class would be the answer


def test_balance_leaves_what_is_given() -> None:
    overrides = ["balance=true", "objective.cross_entropy.loss=softmax", "training.select_by=top1"]
    recipe = load_recipe("photos-alone", overrides)
    assert recipe.objective.cross_entropy.loss == "softmax"
    assert recipe.training.select_by == "top1"


@pytest.mark.parametrize(
    ("name", "change", "loss"),
    [
        ("fashion-lt-teacher", "balance=true", "ldam"),
        ("fashion-lt-drw", "balance=true", "softmax"),
        ("fashion-lt-deit-lt", "balance=true", "balanced_softmax"),
        ("photos-alone", "data.sampler=square_root", "softmax"),
        ("cifar100-lt-resnet32-paco", "balance=true", "softmax"),
    ],
)
def test_what_makes_up_for_sizes_is_not_made_up_for_twice(
    name: str, change: str, loss: str
) -> None:
    recipe = load_recipe(name, ["balance=true", change])
    assert recipe.objective.cross_entropy.loss == loss
    assert recipe.training.select_by == "balanced_accuracy"
