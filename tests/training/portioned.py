"""One backward pass of a tiny student in portions, in this process or in two that share the batch.

`python -m tests.training.portioned FILE` does it in two processes and writes the results of all
cases to FILE.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.data.loader import Batch
from vitrellis.objectives import (
    LDAM,
    CrossEntropy,
    Deferred,
    Focal,
    HardDistillation,
    LabelLoss,
    LogitAdjustment,
    Objective,
    Softmax,
    Term,
    effective_number_weights,
)
from vitrellis.teachers.teacher import Teacher
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.guided import GuidedStudent
from vitrellis.training.portions import Portions
from vitrellis.training.position import TrainingProgress
from vitrellis.training.trainer import Trainer

COUNTS = torch.tensor([900, 100, 5])
WEIGHTS = effective_number_weights(COUNTS).float()
LABELS = torch.tensor([0, 0, 2, 0, 1, 0, 1])
SOFT = "a mixed batch"
LOSSES: dict[str, Callable[[], LabelLoss]] = {
    "softmax": Softmax,
    SOFT: Softmax,
    "balanced softmax": lambda: LogitAdjustment(COUNTS),
    "ldam": lambda: LDAM(COUNTS, scale=5.0),
    "focal": Focal,
}
CASES = [*LOSSES, "hard", "unweighted"]


class Result(NamedTuple):
    """The value of the one term, and the gradients of the weights of the two heads, `(K, 4)`."""

    value: Tensor
    gradients: tuple[Tensor, Tensor]


class TwoHeads(nn.Module):
    """Two linear classifiers."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
        self.first, self.second = (nn.Parameter(weight) for weight in weights)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        flat = images.flatten(1)
        return flat @ self.first.T, flat @ self.second.T


def images() -> Tensor:
    """The batch, `(7, 1, 2, 2)`."""
    return torch.randn(7, 1, 2, 2, generator=torch.Generator().manual_seed(7))


def targets(case: str) -> Tensor:
    """One-hot, or each mixed with the next, `(7, 3)`."""
    one_hot = F.one_hot(LABELS, 3).float()
    return 0.7 * one_hot + 0.3 * one_hot.roll(1, dims=0) if case == SOFT else one_hot


class FixedTeacher(nn.Module):
    """A linear classifier whose favourite classes differ from image to image."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def term_of(case: str) -> Term:
    """The term of a case, re-weighted from the first epoch on, or never."""
    if case == "unweighted":
        return CrossEntropy()
    phase = Deferred(0, class_weights=WEIGHTS)
    if case == "hard":
        return HardDistillation(head="distillation", deferred=phase, name="term")
    return CrossEntropy(loss=LOSSES[case](), deferred=phase, name="term")


def step(case: str, count: int, fabric: Fabric) -> Result:
    """The trainer's backward pass over the batch, in so many portions on each device."""
    objective = Objective([term_of(case)])
    guided = fabric.setup(GuidedStudent(TwoHeads(), objective), move_to_device=False)
    shown: dict[str, Any] = {"img_size": (2, 2), "channels": 1, "mean": (0.0,), "std": (1.0,)}
    teacher = Teacher(FixedTeacher(), **shown, student_mean=(0.0,), student_std=(1.0,))
    teachers = Teachers({"teacher": teacher})
    trainer = object.__new__(Trainer)  # its other parts take no part in the backward pass
    trainer.fabric, trainer.guided, trainer.seed = fabric, guided, 0
    trainer.progress = TrainingProgress()
    trainer.portions = Portions(fabric, objective, teachers, count, warn=print)
    rows = torch.arange(7).tensor_split(fabric.world_size)[fabric.global_rank]
    batch = Batch(images()[rows], targets(case)[rows], rows, rows, size=7)
    outcomes = trainer._backward(batch, objective.teacher_needs(0), epoch=0)
    value = sum(outcome.total * len(outcome.targets) / 7 for outcome in outcomes)
    student = guided.module.student
    gradients = [
        torch.zeros(3, 4) if head.grad is None else head.grad
        for head in (student.first, student.second)
    ]
    summed = fabric.all_reduce(torch.as_tensor(value), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return Result(summed, (gradients[0], gradients[1]))


def main() -> None:
    """Writes the results of all cases with one and with two portions in each process."""
    strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
    fabric.launch()
    results = {f"{case} {count}": step(case, count, fabric) for case in CASES for count in (1, 2)}
    if fabric.is_global_zero:
        torch.save({name: (r.value, *r.gradients) for name, r in results.items()}, sys.argv[1])
    fabric.barrier()


if __name__ == "__main__":
    main()
