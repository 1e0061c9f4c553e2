"""Logit distillation against the published values, finite differences and its properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.losses import CASES, VALUE_TOLERANCE, assert_gradient, described_input
from vitrellis.errors import UsageError
from vitrellis.objectives import (
    KD,
    HardDistillation,
    Head,
    Signals,
    hard_distillation,
    limit_gradient,
    soft_distillation,
    standardize,
)
from vitrellis.objectives.distillation import LogitTerm, Reduction
from vitrellis.objectives.standardization import GRADIENT_FLOOR, Sigma


def random_logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def signals(student: Tensor, teacher: Tensor, *, on_distillation_head: bool = False) -> Signals:
    other = torch.zeros_like(student)
    return Signals(
        logits=other if on_distillation_head else student,
        distillation_logits=student if on_distillation_head else None,
        targets=other,
        teacher_logits=teacher,
    )


@pytest.mark.parametrize("on_distillation_head", [False, True])
@pytest.mark.parametrize("case", CASES["logit_distillation"], ids=lambda case: case["name"])
def test_published_distillation(case: dict[str, Any], on_distillation_head: bool) -> None:
    student = described_input(case["student_logits"])
    teacher = described_input(case["teacher_logits"])
    head: Head = "distillation" if on_distillation_head else "class"
    term: LogitTerm = HardDistillation(head=head)
    if case["type"] == "soft":
        term = KD(
            temperature=case["temperature"],
            standardize=False,
            reduction="batch_and_classes",
            head=head,
        )
    loss = term(signals(student, teacher, on_distillation_head=on_distillation_head))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=VALUE_TOLERANCE)
    assert_gradient(student.grad, case["grad_student"])
    assert teacher.grad is None


@pytest.mark.parametrize("case", CASES["logit_standardized_kd"], ids=lambda case: case["name"])
def test_published_logit_standardization(case: dict[str, Any]) -> None:
    student = described_input(case["student_logits"])
    teacher = described_input(case["teacher_logits"])
    weight = case["extra_weight"] if case["logit_standard"] else 1.0
    term = KD(
        temperature=case["temperature"],
        standardize=case["logit_standard"],
        weight=weight,
    )
    loss = term.weight(0) * term(signals(student, teacher))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=VALUE_TOLERANCE)
    assert_gradient(student.grad, case["grad_student"])
    assert teacher.grad is None


@pytest.mark.parametrize(
    "settings",
    [
        {"reduction": "batch"},
        {"reduction": "batch_and_classes", "temperature": 4.0},
        {"standardize": True},
        {"standardize": True, "sigma": "population", "temperature": 3.0},
    ],
    ids=str,
)
def test_gradients_against_finite_differences(settings: dict[str, Any]) -> None:
    student = random_logits(3, 5, dtype=torch.float64).requires_grad_()
    teacher = 3 * random_logits(3, 5, seed=1, dtype=torch.float64)
    term = KD(**settings)
    assert torch.autograd.gradcheck(lambda z: term(signals(z, teacher)), (student,))


def test_soft_distillation_is_the_definition() -> None:
    student, teacher = random_logits(4, 6), random_logits(4, 6, seed=1)
    p = (teacher / 3).softmax(dim=-1)
    q = (student / 3).softmax(dim=-1)
    expected = 9 * (p * (p / q).log()).sum() / 4
    torch.testing.assert_close(soft_distillation(student, teacher, temperature=3.0), expected)


@pytest.mark.parametrize("reduction", ["batch", "batch_and_classes"])
def test_equal_logits_cost_nothing(reduction: Reduction) -> None:
    logits = random_logits(4, 10)
    assert soft_distillation(logits, logits, reduction=reduction).abs().item() < 1e-6


def test_reductions_differ_by_the_number_of_classes() -> None:
    student, teacher = random_logits(4, 10), random_logits(4, 10, seed=1)
    per_image = soft_distillation(student, teacher, reduction="batch")
    per_class = soft_distillation(student, teacher, reduction="batch_and_classes")
    torch.testing.assert_close(per_image, 10 * per_class)


@pytest.mark.parametrize(("sigma", "correction"), [("sample", 1), ("population", 0)])
def test_standardized_rows_have_mean_0_and_deviation_1(sigma: Sigma, correction: int) -> None:
    z = standardize(5 + 3 * random_logits(4, 7), sigma=sigma)
    torch.testing.assert_close(z.mean(dim=-1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(dim=-1, correction=correction), torch.ones(4))


@pytest.mark.parametrize("scale", [1e-2, 0.5, 20.0])
def test_a_standardized_loss_ignores_scale_and_shift(scale: float) -> None:
    student, teacher = random_logits(4, 10), random_logits(4, 10, seed=1)
    term = KD(standardize=True)
    loss = term(signals(student, teacher))
    moved = term(signals(scale * student + 0.3, teacher))
    torch.testing.assert_close(moved, loss, rtol=1e-4, atol=0)
    moved = term(signals(student, scale * teacher - 0.3))
    torch.testing.assert_close(moved, loss, rtol=1e-4, atol=0)


def test_of_two_standardized_classes_only_the_order_is_left() -> None:
    student, teacher = random_logits(8, 2).requires_grad_(), random_logits(8, 2, seed=1)
    torch.testing.assert_close(standardize(student).abs(), torch.full((8, 2), 0.5**0.5))
    (gradient,) = torch.autograd.grad(KD(standardize=True)(signals(student, teacher)), student)
    assert gradient.norm() < 1e-5


@pytest.mark.parametrize("num_classes", [3, 10, 100])
def test_gradients_of_logits_that_hardly_vary_are_ordinary(num_classes: int) -> None:
    teacher = 3 * random_logits(8, num_classes, seed=1)

    def gradient_norm(student: Tensor) -> float:
        student.requires_grad_()
        loss = KD(standardize=True)(signals(student, teacher))
        (gradient,) = torch.autograd.grad(loss, student)
        return float(gradient.norm())

    at_the_floor = gradient_norm(GRADIENT_FLOOR * standardize(random_logits(8, num_classes)))
    for scale in (0.0, 1e-12, 1e-7, 1e-4, 1e-2):
        norm = gradient_norm(scale * random_logits(8, num_classes))
        assert 0.1 < norm < 10, scale
        assert norm == pytest.approx(at_the_floor, rel=0.8), scale


def test_exact_standardization_of_zero_logits_explodes_as_published() -> None:
    student = torch.zeros(8, 100, requires_grad=True)
    teacher = 3 * random_logits(8, 100, seed=1)
    loss = soft_distillation(standardize(student), standardize(teacher))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.norm() > 1e5


def test_limiting_changes_no_value_and_only_the_length_of_small_gradients() -> None:
    scales = torch.tensor([[1e-3], [GRADIENT_FLOOR / 2], [GRADIENT_FLOOR * 2], [3.0]])
    logits = scales * standardize(random_logits(4, 10))
    weights = random_logits(4, 10, seed=1)

    def gradient(limited: bool) -> Tensor:
        leaf = logits.clone().requires_grad_()
        inputs = limit_gradient(leaf) if limited else leaf
        assert torch.equal(inputs, logits)
        (gradient,) = torch.autograd.grad((weights * standardize(inputs)).sum(), leaf)
        return gradient

    exact, limited = gradient(limited=False), gradient(limited=True)
    shares = (limited / exact).mean(dim=-1)
    torch.testing.assert_close(limited, exact * shares[:, None])
    torch.testing.assert_close(shares, torch.tensor([1e-3 / GRADIENT_FLOOR, 0.5, 1.0, 1.0]))


def test_hard_distillation_ignores_everything_but_the_favourite_class() -> None:
    student, teacher = random_logits(4, 10), random_logits(4, 10, seed=1)
    sharper = teacher + 5 * torch.eye(10)[teacher.argmax(dim=-1)]
    assert torch.equal(hard_distillation(student, teacher), hard_distillation(student, sharper))


@pytest.mark.parametrize("term", [KD(), HardDistillation()], ids=lambda term: term.name)
def test_half_precision_logits_are_judged_in_full(term: LogitTerm) -> None:
    student, teacher = random_logits(4, 10).half(), random_logits(4, 10, seed=1).bfloat16()
    loss = term(signals(student, teacher))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, term(signals(student.float(), teacher.float())))


def test_a_student_without_a_distillation_head_is_refused() -> None:
    term = KD(head="distillation")
    with pytest.raises(UsageError, match=r"no distillation head.*head=class"):
        term(signals(random_logits(4, 10), random_logits(4, 10)))


def test_a_teacher_with_other_classes_is_refused() -> None:
    for kind in (soft_distillation, hard_distillation):
        with pytest.raises(UsageError, match=r"\(4, 10\).*\(4, 1\)"):
            kind(random_logits(4, 10), random_logits(4, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reduction": "mean"}, "batch_and_classes"),
        ({"head": "both"}, "class, distillation"),
        ({"sigma": "std"}, "population, sample"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KD(**settings)
