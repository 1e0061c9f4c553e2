"""Value and gradient are those of the whole batch, whatever portions and processes compute it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from tests.training.portioned import (
    CASES,
    COUNTS,
    LABELS,
    WEIGHTS,
    FixedTeacher,
    Result,
    TwoHeads,
    images,
    step,
    targets,
)


def whole(case: str, logits: Tensor, distillation_logits: Tensor) -> Tensor:
    """The value of the whole batch, by torch's weighted cross-entropy or by the formula."""
    if case == "hard":
        favourites = FixedTeacher()(images()).argmax(dim=1)
        assert len(favourites.unique()) == 3
        return F.cross_entropy(distillation_logits, favourites, weight=WEIGHTS)
    if case == "unweighted":
        return F.cross_entropy(logits, LABELS)
    if case == "a mixed batch":
        shares = targets(case)
        summed = F.cross_entropy(logits, shares, weight=WEIGHTS, reduction="sum")
        return summed / (shares * WEIGHTS).sum()
    if case == "balanced softmax":
        logits = logits + (COUNTS / COUNTS.sum()).log()
    if case == "ldam":
        margins = COUNTS**-0.25
        margins = 0.5 * margins / margins.max()
        logits = 5 * (logits - F.one_hot(LABELS, 3) * margins)
    if case == "focal":
        losses = F.cross_entropy(logits, LABELS, reduction="none")
        losses = (1 - (-losses).exp()) ** 2 * losses
        return (WEIGHTS[LABELS] * losses).sum() / WEIGHTS[LABELS].sum()
    return F.cross_entropy(logits, LABELS, weight=WEIGHTS)


def expected(case: str) -> Result:
    student = TwoHeads()
    value = whole(case, *student(images()))
    heads = [student.first, student.second]
    first, second = torch.autograd.grad(value, heads, allow_unused=True, materialize_grads=True)
    return Result(value.detach(), (first, second))


def assert_same(mine: Result, theirs: Result) -> None:
    torch.testing.assert_close(mine.value, theirs.value, rtol=1e-5, atol=1e-6)
    for one, other in zip(mine.gradients, theirs.gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7], ids=lambda count: f"{count} portions")
@pytest.mark.parametrize("case", CASES)
def test_portions_give_the_whole_batch(case: str, count: int) -> None:
    """Seven images are 4 and 3; 3, 3 and 1; 2, 2, 2 and 1; and one by one."""
    fabric = Fabric(accelerator="cpu", devices=1)
    assert_same(step(case, count, fabric), expected(case))


def test_two_processes_give_the_whole_batch(tmp_path: Path) -> None:
    file = tmp_path / "results.pt"
    command = [sys.executable, "-m", "tests.training.portioned", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    results = torch.load(file, weights_only=True)
    assert len(results) == 2 * len(CASES)
    for name, (value, *gradients) in results.items():
        case = name.rpartition(" ")[0]
        assert_same(Result(value, (gradients[0], gradients[1])), expected(case))
