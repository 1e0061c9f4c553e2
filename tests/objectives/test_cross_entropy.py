"""Cross-entropy against the published values, finite differences and its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.parity.losses import CASES, VALUE_TOLERANCE, assert_gradient, described_input
from vitrellis.errors import UsageError
from vitrellis.objectives import CrossEntropy, Signals, soft_cross_entropy
from vitrellis.objectives.cross_entropy import smoothed


@pytest.mark.parametrize("case", CASES["soft_cross_entropy"], ids=lambda case: case["name"])
def test_published_value_and_gradient(case: dict[str, Any]) -> None:
    logits = described_input(case["logits"])
    targets = F.one_hot(torch.tensor(case["labels"]), logits.shape[1]).float()
    term = CrossEntropy(label_smoothing=case["label_smoothing"])
    loss = term(Signals(logits=logits, targets=targets))
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=VALUE_TOLERANCE)
    assert_gradient(logits.grad, case["grad_logits"])


def test_gradient_of_mixed_targets_against_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.rand(3, 5, dtype=torch.float64, generator=generator).softmax(dim=-1)
    assert torch.autograd.gradcheck(
        lambda z: soft_cross_entropy(z, smoothed(targets, 0.1)), (logits,)
    )


def test_mixed_targets_cost_the_mixture_of_the_costs() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    first, second = F.one_hot(torch.tensor([[0, 1, 2, 3], [5, 1, 0, 4]]), 6).float()
    mixed = soft_cross_entropy(logits, 0.3 * first + 0.7 * second)
    apart = 0.3 * soft_cross_entropy(logits, first) + 0.7 * soft_cross_entropy(logits, second)
    torch.testing.assert_close(mixed, apart)


def test_half_precision_logits_are_judged_in_full() -> None:
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(2)).bfloat16()
    targets = torch.full((8, 10), 0.1)
    loss = soft_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, soft_cross_entropy(logits.float(), targets))


def test_class_numbers_as_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="one-hot"):
        soft_cross_entropy(torch.zeros(4, 10), torch.zeros(4))


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, float("nan")])
def test_impossible_label_smoothing_is_refused(label_smoothing: float) -> None:
    with pytest.raises(UsageError, match="label_smoothing"):
        CrossEntropy(label_smoothing=label_smoothing)
