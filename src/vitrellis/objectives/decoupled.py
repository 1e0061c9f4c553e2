"""Decoupled distillation: how sure the teacher is of the label, apart from the other classes.

Paper: Decoupled Knowledge Distillation (CVPR 2022, https://arxiv.org/abs/2203.08679), eq. 7.
Original code: https://github.com/megvii-research/mdistiller, and with standardized logits
https://github.com/sunshangquan/logit-standardization-KD

How we differ from the published code: everything is computed from logarithms of probabilities, so
that logits which leave the other classes no probability in float32 give no NaN. The published
linear warm-up over 20 epochs is a weight like any other: `{value: 0, to: 1, epochs: 20}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives.distillation import (
    LogitSection,
    LogitTerm,
    check_logits,
    check_temperature,
)
from vitrellis.objectives.objective import Head, Signals
from vitrellis.objectives.precision import to_float32
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.standardization import Sigma, Standardize
from vitrellis.settings import NonNegative, Positive


def decoupled_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """`T^2 * (alpha * TCKD + beta * NCKD)`, batch mean.

    TCKD is the Kullback-Leibler divergence of two-way distributions, the label against all the
    rest; NCKD that of the distributions over the classes that are not the label.

    Args:
        student_logits: `(B, K)`, K at least 2.
        teacher_logits: `(B, K)`. They get no gradient.
        labels: `(B,)` int64.
        alpha: The weight of the label's part.
        beta: The weight of the other classes' part.
        temperature: The temperature that softens both sides (T).

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ, or there is one class only.
    """
    check_logits(student_logits, teacher_logits)
    batch, num_classes = student_logits.shape
    if num_classes < 2:
        raise UsageError("decoupled distillation: needs at least two classes")
    student_logits = to_float32(student_logits) / temperature
    teacher_logits = to_float32(teacher_logits.detach()) / temperature
    is_label = F.one_hot(labels, num_classes).bool()  # (B, K)
    label_part = _divergence(
        _label_against_rest(student_logits, is_label), _label_against_rest(teacher_logits, is_label)
    )
    rest = (batch, num_classes - 1)
    other_part = _divergence(
        student_logits[~is_label].view(rest).log_softmax(dim=-1),
        teacher_logits[~is_label].view(rest).log_softmax(dim=-1),
    )
    return (alpha * label_part + beta * other_part) * (temperature**2 / batch)


class DKD(LogitTerm):
    """The student imitates the teacher's certainty of the label and its view of the rest.

    Mixed images count as those of their larger part.

    Args:
        alpha: See `decoupled_distillation`.
        beta: See `decoupled_distillation`.
        temperature: See `decoupled_distillation`.
        standardize: Z-score both sides' logits first; "auto": unless there are two
            classes.
        sigma: See `standardize`.
        head: Which of the student's heads learns from the teacher.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.

    Raises:
        UsageError: If a setting is unknown or out of range.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        standardize: Standardize = "auto",
        sigma: Sigma = "sample",
        head: Head = "class",
        weight: WeightSchedule | float = 1.0,
        name: str = "dkd",
    ) -> None:
        check_temperature(name, temperature)
        super().__init__(
            name,
            weight=weight,
            head=head,
            standardize=standardize,
            sigma=sigma,
            settings=f"alpha {alpha:g}, beta {beta:g}, T {temperature:g}",
        )
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def without_gradient(self, num_classes: int) -> list[str]:
        """Standardization, or the part of the other classes, where there are two classes."""
        reasons = super().without_gradient(num_classes)
        if not reasons and num_classes == 2 and self.beta:
            reasons = [
                f"{self.key}.beta: {self.beta:g} weighs what the teacher thinks of the classes "
                "that are not the label; of two classes that is one, and teaches the student "
                f"nothing. Only {self.key}.alpha counts"
            ]
        return reasons

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar.

        Raises:
            UsageError: If the student lacks the head, or the teacher knows other classes.
        """
        return decoupled_distillation(
            *self.compared_logits(signals),
            signals.targets.argmax(dim=-1),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )


class DKDSection(LogitSection):
    """Imitates the label and the other classes apart (Zhao et al., CVPR 2022, arXiv 2203.08679)."""

    key: ClassVar[str] = "dkd"
    term: ClassVar[Callable[..., LogitTerm]] = DKD

    alpha: NonNegative = 1.0
    """The weight of how sure the teacher is of the label."""
    beta: NonNegative = 8.0
    """The weight of the teacher's view of the other classes."""
    temperature: Positive = 4.0
    """The temperature that softens both sides' probabilities."""


def _label_against_rest(logits: Tensor, is_label: Tensor) -> Tensor:
    """Log-probabilities of the label and of all other classes together, `(B, 2)`."""
    of_label = logits[is_label]  # (B,)
    of_rest = logits.masked_fill(is_label, float("-inf")).logsumexp(dim=-1)  # (B,)
    return torch.stack([of_label, of_rest], dim=-1).log_softmax(dim=-1)


def _divergence(student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """The Kullback-Leibler divergence, summed over all elements."""
    return F.kl_div(student_log_probs, teacher_log_probs, reduction="sum", log_target=True)
