"""The last phase against DeiT-LT's values and gradients, before it begins and after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.losses import (
    CASES,
    VALUE_TOLERANCE,
    assert_gradient,
    described_input,
    recorded,
)
from vitrellis.errors import UsageError
from vitrellis.objectives import (
    LDAM,
    CrossEntropy,
    Deferred,
    Focal,
    HardDistillation,
    LabelLoss,
    LogitAdjustment,
    Objective,
    Signals,
    Softmax,
    effective_number_weights,
)

BEGIN = 7
COUNTS = torch.tensor([90, 20, 5])
WEIGHTS = effective_number_weights(COUNTS)


def recorded_signals(case: dict[str, Any], epoch: int) -> Signals:
    """A batch of the reference: its mixture is of each image and the one across the batch."""
    logits = described_input(case["cls_logits"])
    one_hot = F.one_hot(torch.tensor(case["labels"]), logits.shape[1]).float()
    targets = one_hot
    if case["base_targets"] == "soft_targets":
        share = case["mixup_lambda"]
        targets = share * one_hot + (1 - share) * one_hot.flip(0)
    return Signals(
        logits=logits,
        targets=targets,
        distillation_logits=described_input(case["dist_logits"]),
        teacher_logits=described_input(case["teacher_logits"]).detach(),
        epoch=epoch,
    )


@pytest.mark.parametrize(
    "case", CASES["deitlt_hard_distillation"], ids=lambda case: str(case["name"])
)
def test_published_objective(case: dict[str, Any]) -> None:
    """One objective, before the phase and in it: the reference decides with flags."""
    is_deferred = case["weighted_distillation"] or case["base_targets"] == "labels"
    weights = recorded(case["class_weights"]) if case["class_weights"] else None
    epoch = BEGIN if is_deferred else BEGIN - 1
    smoothing = "label_smoothing" in case and case["base_targets"] == "soft_targets"
    base_weights = weights if case["weighted_base_loss"] else None
    alpha = case["alpha"]
    objective = Objective(
        [
            CrossEntropy(
                label_smoothing=0.1,
                deferred=Deferred(BEGIN, class_weights=base_weights, smoothing=smoothing),
                weight=1 - alpha,
            ),
            HardDistillation(
                head="distillation", deferred=Deferred(BEGIN, class_weights=weights), weight=alpha
            ),
        ]
    )
    signals = recorded_signals(case, epoch)
    value = objective(signals, epoch)
    value.total.backward()
    assert value.total.item() == pytest.approx(case["total"], rel=VALUE_TOLERANCE)
    base, distillation = value.parts["cross_entropy"], value.parts["hard"]
    assert (1 - alpha) * base.item() == pytest.approx(case["base_part"], rel=VALUE_TOLERANCE)
    expected = pytest.approx(case["distillation_part"], rel=VALUE_TOLERANCE)
    assert alpha * distillation.item() == expected
    assert_gradient(signals.logits.grad, case["grad_cls_logits"])
    assert signals.distillation_logits is not None
    assert_gradient(signals.distillation_logits.grad, case["grad_dist_logits"])


def batch(epoch: int) -> Signals:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 6, 3, generator=generator).double()
    targets = F.one_hot(torch.tensor([0, 0, 0, 1, 1, 2]), 3).double()
    return Signals(logits=logits, targets=targets, teacher_logits=teacher, epoch=epoch)


@pytest.mark.parametrize(
    "loss",
    [Softmax(), LogitAdjustment(COUNTS), LDAM(COUNTS, scale=3.0), Focal(gamma=1.0)],
    ids=lambda loss: type(loss).__name__,
)
def test_labels_are_weighted_and_not_smoothed_in_the_phase(loss: LabelLoss) -> None:
    term = CrossEntropy(
        label_smoothing=0.2,
        loss=loss,
        deferred=Deferred(BEGIN, class_weights=WEIGHTS, smoothing=False),
    )
    before = CrossEntropy(label_smoothing=0.2, loss=loss)
    signals = batch(BEGIN)
    weighted: Tensor = loss(signals.logits, signals.targets, WEIGHTS)
    torch.testing.assert_close(term(signals), weighted, rtol=1e-5, atol=0)
    assert torch.equal(term(batch(BEGIN - 1)), before(batch(0)))
    assert not torch.equal(term(signals), before(signals))


def test_equal_classes_weigh_nothing() -> None:
    weights = effective_number_weights(torch.tensor([9, 9, 9]))
    same = Deferred(0, class_weights=weights, smoothing=True)
    for plain, deferred in (
        (CrossEntropy(label_smoothing=0.1), CrossEntropy(label_smoothing=0.1, deferred=same)),
        (HardDistillation(), HardDistillation(deferred=same)),
    ):
        torch.testing.assert_close(plain(batch(0)), deferred(batch(0)))


def test_the_last_phase_is_announced() -> None:
    phase = Deferred(160, class_weights=WEIGHTS, smoothing=False)
    low, high = f"{WEIGHTS.min().item():.3g}", f"{WEIGHTS.max().item():.3g}"
    assert CrossEntropy(label_smoothing=0.1, loss=LDAM(COUNTS), deferred=phase).settings == (
        f"LDAM, margins up to 0.5, scale 30, label smoothing 0.1, "
        f"re-weighted (by {low} to {high}) and not smoothed from epoch 161 on"
    )
    assert CrossEntropy(deferred=Deferred(3, smoothing=False)).settings == ""
    assert f"by {low} to {high}" in HardDistillation(deferred=phase).settings


def test_what_the_images_decide_is_in_no_checkpoint() -> None:
    phase = Deferred(160, class_weights=WEIGHTS)
    term = CrossEntropy(loss=LDAM(COUNTS), deferred=phase)
    assert term.state_dict() == {}
    assert len(list(term.buffers())) == 2


@pytest.mark.parametrize(
    "build",
    [
        lambda: LogitAdjustment(COUNTS, tau=-1.0),
        lambda: LDAM(COUNTS, scale=0.0),
        lambda: LDAM(COUNTS, margin=float("nan")),
        lambda: Focal(gamma=-1.0),
    ],
)
def test_impossible_settings_are_refused(build: Any) -> None:
    with pytest.raises(UsageError, match="should be"):
        build()
