"""Losses for long tails against their definitions, published weights and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.losses import CASES, recorded
from vitrellis.errors import UsageError
from vitrellis.objectives.long_tail_losses import (
    effective_number_weights,
    focal,
    ldam,
    ldam_margins,
    log_shares,
    logit_adjustment,
)

COUNTS = torch.tensor([500, 80, 20, 5, 1])
MARGINS = ldam_margins(COUNTS)
LOG_PRIOR = log_shares(COUNTS)
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
ONE_HOT = F.one_hot(LABELS, 5).double()

LOSSES: dict[str, Callable[..., Tensor]] = {
    "ldam": lambda *pair, **rest: ldam(*pair, margins=MARGINS, scale=3.0, **rest),
    "balanced_softmax": lambda *pair, **rest: logit_adjustment(*pair, log_prior=LOG_PRIOR, **rest),
    "logit_adjustment": lambda *pair, **rest: logit_adjustment(
        *pair, log_prior=LOG_PRIOR, tau=0.5, **rest
    ),
    "focal": lambda *pair, **rest: focal(*pair, gamma=1.5, **rest),
}
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def logits(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(LABELS), 5, generator=generator, dtype=torch.float64)


def mixed(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(LABELS), 5, generator=generator, dtype=torch.float64).softmax(dim=-1)


def test_published_weights() -> None:
    for case in CASES["deitlt_weights"]:
        for entry in case["weights"]:
            weights = effective_number_weights(torch.tensor(case["counts"]), beta=entry["beta"])
            expected = recorded(entry["array"]).float()
            where = f"{case['name']}, beta {entry['beta']}: {weights} is not {expected}"
            torch.testing.assert_close(weights.float(), expected, msg=where)


def test_weights_of_equal_counts_are_one() -> None:
    torch.testing.assert_close(
        effective_number_weights(torch.full((7,), 33)), torch.ones(7).double()
    )


def test_weights_go_from_equal_to_the_inverse_of_the_size() -> None:
    assert effective_number_weights(COUNTS, beta=0.0).tolist() == pytest.approx([1.0] * 5)
    inverse = (1 / COUNTS.double()) / (1 / COUNTS.double()).mean()
    weights = effective_number_weights(COUNTS, beta=1 - 1e-9)
    torch.testing.assert_close(weights, inverse, rtol=1e-5, atol=0)


def test_margins_are_the_fourth_root_of_the_inverse() -> None:
    assert MARGINS.tolist() == pytest.approx([0.5 * n**-0.25 for n in COUNTS.tolist()])


def test_ldam_is_the_definition() -> None:
    values = logits()
    moved = values - ONE_HOT * MARGINS
    expected = F.cross_entropy(30 * moved, LABELS)
    torch.testing.assert_close(ldam(values, ONE_HOT, margins=MARGINS), expected)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment_is_the_definition(tau: float) -> None:
    prior = COUNTS.double() / COUNTS.sum()
    expected = F.cross_entropy(logits() + tau * prior.log(), LABELS)
    value = logit_adjustment(logits(), ONE_HOT, log_prior=LOG_PRIOR, tau=tau)
    torch.testing.assert_close(value, expected)


def test_balanced_softmax_is_the_definition() -> None:
    odds = COUNTS * logits().exp()
    expected = -(odds / odds.sum(dim=1, keepdim=True)).log()[range(len(LABELS)), LABELS].mean()
    torch.testing.assert_close(logit_adjustment(logits(), ONE_HOT, log_prior=LOG_PRIOR), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_definition(gamma: float) -> None:
    p = logits().softmax(dim=1)[range(len(LABELS)), LABELS]
    expected = (-((1 - p) ** gamma) * p.log()).mean()
    torch.testing.assert_close(focal(logits(), ONE_HOT, gamma=gamma), expected)


def test_nothing_special_is_cross_entropy() -> None:
    same = torch.full((5,), 30)
    plain = F.cross_entropy(logits(), mixed())
    none = torch.zeros(5)
    for value in (
        ldam(logits(), mixed(), margins=none, scale=1.0),
        logit_adjustment(logits(), mixed(), log_prior=log_shares(same)),
        focal(logits(), mixed(), gamma=0.0),
    ):
        torch.testing.assert_close(value, plain)


@EVERY_LOSS
def test_mixed_targets_cost_the_mixture_of_the_costs(loss: Callable[..., Tensor]) -> None:
    others = F.one_hot(torch.tensor([3, 0, 2, 1, 4, 4]), 5).double()
    value = loss(logits(), 0.3 * ONE_HOT + 0.7 * others)
    torch.testing.assert_close(value, 0.3 * loss(logits(), ONE_HOT) + 0.7 * loss(logits(), others))


@EVERY_LOSS
def test_weights_are_those_of_the_classes_and_divided_by(loss: Callable[..., Tensor]) -> None:
    weights = effective_number_weights(COUNTS)
    value = loss(logits(), ONE_HOT, class_weights=weights)
    alone = [loss(logits()[[b]], ONE_HOT[[b]]) for b in range(len(LABELS))]
    own = weights[LABELS]
    torch.testing.assert_close(value, (own * torch.stack(alone)).sum() / own.sum())
    torch.testing.assert_close(
        loss(logits(), mixed(), class_weights=torch.full((5,), 3.0)), loss(logits(), mixed())
    )


def test_weighted_labels_are_torchs_weighted_cross_entropy() -> None:
    weights = effective_number_weights(COUNTS)
    value = focal(logits(), ONE_HOT, gamma=0.0, class_weights=weights)
    torch.testing.assert_close(value, F.cross_entropy(logits(), LABELS, weight=weights))


@EVERY_LOSS
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_against_finite_differences(loss: Callable[..., Tensor], weighted: bool) -> None:
    weights = effective_number_weights(COUNTS) if weighted else None
    values = logits().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, mixed(), class_weights=weights), (values,))


@EVERY_LOSS
def test_certainty_gives_finite_values_and_gradients(loss: Callable[..., Tensor]) -> None:
    for size, label in product((0.0, 30.0, 1e4), (0, 1)):
        values = torch.tensor([[size, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
        value = loss(values, F.one_hot(torch.tensor([label]), 5).float())
        value.backward()
        assert value.isfinite(), (size, label)
        assert values.grad is not None
        assert values.grad.isfinite().all(), (size, label)


def test_ldam_in_single_precision_near_certainty() -> None:
    """Where the label's chance rounds to one, and the margin decides all."""
    values = torch.tensor([[0.9, -0.1, 0.1, 0.0, 0.2]])
    target = F.one_hot(torch.tensor([0]), 5)
    margins = torch.full((5,), 0.5)
    exact = ldam(values.double(), target.double(), margins=margins.double())
    value = ldam(values, target.float(), margins=margins)
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    assert exact.item() == pytest.approx(
        math.log1p(sum(math.exp(30 * (z - 0.4)) for z in (-0.1, 0.1, 0.0, 0.2))), rel=1e-5
    )


@EVERY_LOSS
def test_half_precision_is_judged_in_full(loss: Callable[..., Tensor]) -> None:
    values = logits().bfloat16()
    assert torch.equal(loss(values, ONE_HOT.float()), loss(values.float(), ONE_HOT.float()))


@EVERY_LOSS
def test_class_numbers_as_targets_are_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(UsageError, match="both should be"):
        loss(logits(), LABELS)


@pytest.mark.parametrize(
    "build",
    [
        lambda counts: effective_number_weights(counts),
        lambda counts: ldam_margins(counts),
        lambda counts: log_shares(counts),
    ],
)
def test_classes_without_images_are_named(build: Callable[[Tensor], object]) -> None:
    with pytest.raises(UsageError, match="no training image of class 0, 2 "):
        build(torch.tensor([0, 3, 0]))


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_impossible_beta_is_refused(beta: float) -> None:
    with pytest.raises(UsageError, match="beta"):
        effective_number_weights(COUNTS, beta=beta)
