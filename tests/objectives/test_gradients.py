"""Which terms teach a student nothing: with two classes, and by the gradients of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from vitrellis.objectives import (
    CTKD,
    DKD,
    KD,
    MLKD,
    CrossEntropy,
    HardDistillation,
    LogitTerm,
    Objective,
    Signals,
    Term,
    silent_terms,
)

LOGIT_TERMS: dict[str, Callable[..., LogitTerm]] = {
    "kd": KD,
    "dkd": DKD,
    "mlkd": MLKD,
    "ctkd": CTKD,
}


def signals(num_classes: int) -> Signals:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, num_classes, generator=generator).double()
    targets = F.one_hot(torch.arange(6) % num_classes, num_classes).double()
    return Signals(logits=student.requires_grad_(), targets=targets, teacher_logits=teacher)


def silent(terms: list[Term], batch: Signals) -> dict[str, str]:
    objective = Objective(terms)
    return silent_terms(objective(batch, 0).weighted, [batch.logits])


@pytest.mark.parametrize("kind", LOGIT_TERMS.values(), ids=LOGIT_TERMS)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_auto_standardizes_unless_there_are_two_classes(
    kind: Callable[..., LogitTerm], num_classes: int
) -> None:
    """`auto` is the default; the constant z-scores of two classes would have no gradient."""
    value = kind()(signals(num_classes))
    expected = kind(standardize=num_classes == 3)(signals(num_classes))
    assert torch.equal(value, expected)
    batch = signals(num_classes)
    kind()(batch).backward()
    assert batch.logits.grad is not None
    assert batch.logits.grad.abs().max() > 1e-3


@pytest.mark.parametrize("kind", [KD, DKD, CTKD])
def test_two_standardized_classes_are_named(kind: Callable[..., LogitTerm]) -> None:
    term, batch = kind(standardize=True), signals(2)
    term.key = "objective.example"
    term(batch).backward()
    assert batch.logits.grad is not None
    assert batch.logits.grad.abs().max() < 1e-5  # what the eps of the z-scores leaves
    (reason,) = term.without_gradient(2)
    assert "objective.example.standardize: true" in reason
    assert term.without_gradient(3) == []
    assert kind(standardize=False, name="plain").without_gradient(3) == []


def test_the_other_classes_of_two_are_named() -> None:
    """The decoupled part of the other classes has one class left, and so no gradient."""
    batch = signals(2)
    DKD(standardize=False, alpha=0.0)(batch).backward()
    assert batch.logits.grad is not None
    assert not batch.logits.grad.any()
    (reason,) = DKD().without_gradient(2)
    assert "beta: 8" in reason
    assert DKD(beta=0.0).without_gradient(2) == DKD().without_gradient(3) == []


def test_terms_without_a_gradient_in_a_batch() -> None:
    """At such temperatures, probabilities are equal, or those of one class; a constant is one."""

    class Detached(Term):
        def forward(self, signals: Signals) -> torch.Tensor:
            return signals.logits.detach().square().mean()

    class Unbounded(Term):
        def forward(self, signals: Signals) -> torch.Tensor:
            return (signals.logits - signals.logits.detach()).abs().sqrt().sum()

    terms = [
        CrossEntropy(),
        HardDistillation(),
        KD(temperature=1e-200, name="cold"),
        Detached("detached", weight=1.0),
        Unbounded("unbounded", weight=1.0),
    ]
    expected = {"cold": "zero", "detached": "zero", "unbounded": "not finite"}
    assert silent(terms, signals(4)) == expected
    assert silent(terms[:1], signals(4)) == {}


def test_small_gradients_in_half_precision_are_seen() -> None:
    """They are zero in float16, but a gradient scaler would keep them."""
    logits = torch.zeros(2, 3, dtype=torch.float16, requires_grad=True)
    values = {"small": (logits.float() * 1e-8).sum(), "none": (logits.float() * 0).sum()}
    assert silent_terms(values, [logits]) == {"none": "zero"}
