"""Curriculum temperature: distillation at a temperature that learns to make the task harder.

Paper: Curriculum Temperature for Knowledge Distillation (AAAI 2023, https://arxiv.org/abs/2211.16231).
Original code: https://github.com/zhengli97/CTKD; with standardized logits
https://github.com/sunshangquan/logit-standardization-KD, folder CTKD (whose flag `--logit_stand` is
inverted: giving it switches standardization off).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitrellis.errors import UsageError
from vitrellis.objectives.distillation import (
    LogitSection,
    LogitTerm,
    check_temperature,
    soft_distillation,
)
from vitrellis.objectives.objective import Head, Signals
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.standardization import Sigma, Standardize
from vitrellis.settings import Count, Positive


def reverse_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; their gradient is multiplied by `factor`.

    Args:
        values: Any shape.
        factor: Negative, so that the parameters below climb the loss that others descend.
    """
    fixed = values.detach()
    return fixed + factor * (values - fixed)


def reversal_factor(epoch: int, epochs: int) -> float:
    """The factor falls from 0 to -1 by half a cosine over the first `epochs` epochs, and stays -1.

    Args:
        epoch: 0-based.
        epochs: At least 1.
    """
    progress = min(epoch / epochs, 1.0)
    return -(1 - math.cos(math.pi * progress)) / 2


class CTKD(LogitTerm):
    """Distillation at a learned temperature `lowest + span * sigmoid(t)`, t from 1 on.

    The student descends the loss, t climbs it, more and more over the first epochs. t is a
    parameter of one number, which optimizers usually spare from weight decay.

    Args:
        lowest: The lowest temperature (t_start).
        span: The difference between the highest temperature and the lowest (t_end).
        epochs: The number of epochs over which the reversal sets in; at least 1.
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
        lowest: float = 1.0,
        span: float = 20.0,
        epochs: int = 10,
        standardize: Standardize = "auto",
        sigma: Sigma = "sample",
        head: Head = "class",
        weight: WeightSchedule | float = 1.0,
        name: str = "ctkd",
    ) -> None:
        check_temperature(name, lowest, span)
        if epochs < 1:
            raise UsageError(f"{name}: epochs is {epochs}, it should be at least 1")
        super().__init__(
            name,
            weight=weight,
            head=head,
            standardize=standardize,
            sigma=sigma,
            settings=f"T learned from {lowest:g} to {lowest + span:g}, "
            f"reversal over {epochs} epochs",
        )
        self.lowest = lowest
        self.span = span
        self.epochs = epochs
        self.raw_temperature = nn.Parameter(torch.ones(1))

    def temperature(self, factor: float = 1.0) -> Tensor:
        """The current temperature, a scalar whose gradient is multiplied by `factor`."""
        raw = reverse_gradient(self.raw_temperature, factor)
        return (self.lowest + self.span * raw.sigmoid()).squeeze()

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar.

        Raises:
            UsageError: If the student lacks the head, or the teacher knows other classes.
        """
        temperature = self.temperature(reversal_factor(signals.epoch, self.epochs))
        return soft_distillation(*self.compared_logits(signals), temperature=temperature)


class CTKDSection(LogitSection):
    """Imitates the teacher at a learned temperature (Li et al., AAAI 2023, arXiv 2211.16231)."""

    key: ClassVar[str] = "ctkd"
    term: ClassVar[Callable[..., LogitTerm]] = CTKD

    lowest: Positive = 1.0
    """The lowest temperature (t_start)."""
    span: Positive = 20.0
    """The difference between the highest temperature and the lowest (t_end)."""
    epochs: Count = 10
    """The number of epochs over which the temperature begins to work against the student."""
