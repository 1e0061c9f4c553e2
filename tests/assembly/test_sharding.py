"""What cannot be shared in parts is refused before anything is trained.

That shared students learn as whole ones do is in tests/training/test_trainer.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vitrellis.assembly.sharding import check_can_be_sharded
from vitrellis.errors import UsageError
from vitrellis.objectives import CrossEntropy, FollowingTerm, Objective, Signals
from vitrellis.recipe import load_recipe

RECIPE = load_recipe("demo-alone", ["machine.strategy=fsdp"])


class Follower(FollowingTerm):
    """A term that follows the student, as PaCo does."""

    def forward(self, signals: Signals) -> Tensor:
        return signals.logits.sum()

    def end_step(self, student: nn.Module) -> None:
        pass


class Scaled(nn.Linear):
    """A layer with a single number."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.scale = nn.Parameter(torch.tensor(1.0))


def test_a_student_without_single_numbers_can_be_shared() -> None:
    check_can_be_sharded(RECIPE, nn.Linear(2, 2), Objective([CrossEntropy()]))


def test_a_single_number_is_named() -> None:
    with pytest.raises(UsageError, match="fsdp cannot share scale, which is a single number"):
        check_can_be_sharded(RECIPE, Scaled(), Objective([CrossEntropy()]))


def test_a_term_that_follows_the_student_is_named() -> None:
    objective = Objective([CrossEntropy(), Follower("follower", weight=1.0)])
    with pytest.raises(UsageError, match="fsdp does not go with the term 'follower'"):
        check_can_be_sharded(RECIPE, nn.Linear(2, 2), objective)


def test_what_is_not_shared_may_be_anything() -> None:
    check_can_be_sharded(load_recipe("demo-alone"), Scaled(), Objective([CrossEntropy()]))
