"""The long-tailed recipes: their figures, and what balances classes in them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitrellis.objectives.cross_entropy import LogitAdjustment, smoothed
from vitrellis.recipe import (
    differences,
    header,
    load_recipe,
    recipe_from,
    teacher_recipe,
)

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


def test_published_figures_are_quoted() -> None:
    for name, top1 in PUBLISHED_TOP1.items():
        lines = header(name).splitlines()
        assert any(line.startswith(f"Published:  {top1}") for line in lines), name


@pytest.mark.parametrize("student", ["fashion-lt", "few-cifar10-lt-vit"])
def test_arms_on_the_same_tail_differ_only_in_what_they_are_called_for(student: str) -> None:
    alone, drw, balanced = (
        load_recipe(f"{student}-{arm}").model_dump(exclude={"name", "description"})
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
