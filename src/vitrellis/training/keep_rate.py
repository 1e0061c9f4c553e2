"""The keep rate of token pruning over a run.

Paper: Liang et al., EViT, ICLR 2022, https://arxiv.org/abs/2202.07800. Original code:
github.com/youweiliang/evit, `adjust_keep_rate` in helpers.py.

How we differ: with `levels`, the rate falls in a few equal steps, so that a compiled model has few
shapes; without, it is the published one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from vitrellis.models.support.token_reduction import TokenReduction


@dataclass(frozen=True)
class KeepRateSchedule:
    """The keep rate as a function of the epoch and the step: it has no state to save.

    It is 1 until `from_epoch`, then falls by half a cosine wave, step by step, and is `keep_rate`
    from `until_epoch` on.

    Attributes:
        keep_rate: The share of tokens that a shrinking layer keeps in the end.
        from_epoch: The 0-based epoch in whose first step the rate is still 1, and then falls.
        until_epoch: The 0-based epoch from which on it is `keep_rate`.
        steps_per_epoch: The number of optimizer steps in an epoch.
        levels: The number of equal steps in which it falls, each rounded to the nearest; None if
            it changes with every optimizer step.
    """

    keep_rate: float
    from_epoch: int
    until_epoch: int
    steps_per_epoch: int
    levels: int | None = None

    def at(self, epoch: int, step_in_epoch: int) -> float:
        """The rate of a step.

        Args:
            epoch: The number of the epoch, 0-based.
            step_in_epoch: The number of the step in its epoch, 0-based.
        """
        if epoch < self.from_epoch:
            return 1.0
        if epoch >= self.until_epoch:
            return self.keep_rate
        steps = (epoch - self.from_epoch) * self.steps_per_epoch + step_in_epoch
        share = steps / ((self.until_epoch - self.from_epoch) * self.steps_per_epoch)
        fallen = (1 - math.cos(math.pi * share)) / 2
        if self.levels is not None:
            fallen = round(fallen * self.levels) / self.levels
        return self.keep_rate + (1 - self.keep_rate) * (1 - fallen)

    def has_ended(self, epoch: int) -> bool:
        """Whether all steps of an epoch have the rate of the end."""
        return epoch >= self.until_epoch

    def set(self, models: Iterable[nn.Module], epoch: int, step_in_epoch: int) -> float:
        """Sets the rate of all models for this step, and returns it.

        Args:
            models: The student, and its moving average where one is kept.
            epoch: The number of the epoch, 0-based.
            step_in_epoch: The number of the step in its epoch, 0-based.
        """
        rate = self.at(epoch, step_in_epoch)
        for model in models:
            assert isinstance(model, TokenReduction), "assembly makes the student one"
            model.set_keep_rate(rate)
        return rate
