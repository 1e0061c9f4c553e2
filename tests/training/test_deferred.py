"""The last phase of a run: when it begins, and which losses it changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from vitrellis.assembly.terms import build_objective
from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.objectives import LDAM, CrossEntropy, HardDistillation, LogitAdjustment
from vitrellis.objectives.objective import Objective
from vitrellis.recipe import recipe_from
from vitrellis.runs.exported import Preprocessing
from vitrellis.teachers.teacher import Teacher
from vitrellis.teachers.teachers import Teachers

COUNTS = torch.tensor([50, 20, 10])


def objective(counts: torch.Tensor = COUNTS, **sections: Any) -> Objective:
    values = {"model": {"name": "vit_micro_patch7_28"}, "training": {"epochs": 10}} | sections
    recipe = recipe_from(values)
    shown = Preprocessing((28, 28), 1, (0.5,), (0.5,), "bicubic")
    teacher = Teacher(
        create_model("cifar_resnet8", num_classes=3, in_chans=1),
        img_size=(28, 28),
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        student_mean=(0.5,),
        student_std=(0.5,),
    )
    return build_objective(
        recipe,
        create_model("vit_micro_patch7_28", num_classes=3),
        shown,
        Teachers(dict.fromkeys(recipe.all_teachers, teacher)),
        class_counts=counts,
    )


def label_term(**sections: Any) -> CrossEntropy:
    term = objective(**sections).terms["cross_entropy"]
    assert isinstance(term, CrossEntropy)
    return term


@pytest.mark.parametrize(
    ("deferred", "first"), [({}, 8), ({"share": 0.7}, 7), ({"after_epochs": 3}, 3)]
)
def test_the_phase_begins_where_the_recipe_says(deferred: Any, first: int) -> None:
    term = label_term(deferred=deferred)
    assert term.deferred is not None
    assert term.deferred.from_epoch == first
    assert term.deferred.class_weights is not None


@pytest.mark.parametrize(
    ("reweight", "weighted"),
    [
        ("class", (True, False)),
        ("distillation", (False, True)),
        ("both", (True, True)),
        ("none", (False, False)),
    ],
)
def test_what_is_asked_for_is_re_weighted(reweight: str, weighted: tuple[bool, bool]) -> None:
    terms = objective(
        deferred={"reweight": reweight},
        objective={"hard": {"head": "distillation"}},
        teacher={"model": "cifar_resnet8"},
    ).terms
    labels, hard = terms["cross_entropy"], terms["hard"]
    assert isinstance(labels, CrossEntropy)
    assert isinstance(hard, HardDistillation)
    assert labels.deferred is not None
    assert hard.deferred is not None
    weights = (labels.deferred.class_weights, hard.deferred.class_weights)
    assert tuple(weight is not None for weight in weights) == weighted


def test_losses_are_built_as_set() -> None:
    loss = label_term(
        objective={"cross_entropy": {"loss": "ldam", "margin": 0.3, "scale": 20}}
    ).loss
    assert isinstance(loss, LDAM)
    assert loss.margins.max().item() == pytest.approx(0.3)
    assert loss.scale == 20
    adjusted = label_term(
        objective={"cross_entropy": {"loss": "logit_adjustment", "tau": 1.5}}
    ).loss
    assert isinstance(adjusted, LogitAdjustment)
    assert adjusted.tau == 1.5


def test_balanced_classes_are_in_the_loss_by_their_counts() -> None:
    term = objective(balance=True).terms["cross_entropy"]
    assert isinstance(term, CrossEntropy)
    assert isinstance(term.loss, LogitAdjustment)
    logits = torch.randn(3, len(COUNTS))
    shifted = logits + (COUNTS / COUNTS.sum()).log()
    targets = torch.eye(3)
    expected = F.cross_entropy(shifted, targets)  # balanced softmax, arXiv 2007.10740, eq. 4
    torch.testing.assert_close(term.loss(logits, targets).mean(), expected)


def test_balance_says_which_class_is_empty() -> None:
    with pytest.raises(UsageError, match="no training image of class 1 "):
        objective(torch.tensor([9, 0, 3]), balance=True)


def test_plain_cross_entropy_asks_for_no_counts() -> None:
    assert objective(torch.tensor([9, 0, 3])).terms.keys() == {"cross_entropy"}
