"""How much a term counts, epoch by epoch.

Epochs are 0-based. A weight of 0 switches a term off: neither it nor what it needs is computed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from vitrellis.errors import UsageError, unknown_name

RAMP_SHAPES = ("linear", "cosine")


class WeightSchedule(ABC):
    """A weight over the epochs of a run."""

    @property
    @abstractmethod
    def can_turn_off(self) -> bool:
        """Whether the weight may be 0 in some epoch."""

    @abstractmethod
    def __call__(self, epoch: int) -> float:
        """The weight in this epoch."""

    @abstractmethod
    def end_epoch(self, epoch: int, mean_loss: float) -> None:
        """Learns the term's mean unweighted value over an epoch in which it was on."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What has been learned, as numbers, lists and None."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""

    @abstractmethod
    def describe(self) -> str:
        """The schedule in words: "2.5, off after 100 epochs"."""


class _Fixed(WeightSchedule):
    """A weight that is known before the run begins."""

    def end_epoch(self, epoch: int, mean_loss: float) -> None:
        """Changes nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is to be restored."""
        assert not state, f"the state of another schedule: {sorted(state)}"


@dataclass(frozen=True)
class Constant(_Fixed):
    """The same weight in every epoch.

    Attributes:
        value: The weight.
    """

    value: float

    def __post_init__(self) -> None:
        _check_finite(self.value)

    @property
    def can_turn_off(self) -> bool:
        """Only if it is never on."""
        return self.value == 0

    def __call__(self, epoch: int) -> float:
        """The weight, whatever the epoch."""
        return self.value

    def describe(self) -> str:
        """Such as "2.5"."""
        return f"{self.value:g}"


@dataclass(frozen=True)
class Ramp(_Fixed):
    """A weight that moves from one value to another, and stays there.

    Attributes:
        value: The weight in epoch 0.
        to: The weight in epoch `epochs` and all later ones.
        epochs: How many epochs it takes.
        shape: "linear", or "cosine": half a wave, level at both ends.
    """

    value: float
    to: float
    epochs: int
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        _check_finite(self.value, self.to)
        if self.epochs < 1:
            raise UsageError(f"weight: a ramp takes at least 1 epoch, not {self.epochs}")
        if self.shape not in RAMP_SHAPES:
            raise unknown_name("shape of a weight", self.shape, RAMP_SHAPES)

    @property
    def can_turn_off(self) -> bool:
        """Whether it begins at 0, ends there or passes through."""
        return self.value * self.to <= 0

    def __call__(self, epoch: int) -> float:
        """The weight, interpolated until epoch `epochs`."""
        if epoch >= self.epochs:
            return self.to
        progress = epoch / self.epochs
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.value + (self.to - self.value) * progress

    def describe(self) -> str:
        """Such as "2.5 → 0 over 100 epochs (cosine)"."""
        return f"{self.value:g} → {self.to:g} over {self.epochs} epochs ({self.shape})"


@dataclass(frozen=True)
class OffAfter(_Fixed):
    """A weight that is dropped to zero at a fixed time.

    Attributes:
        value: The weight until then.
        epoch: How many epochs it is on: 0 to `epoch - 1`.
    """

    value: float
    epoch: int

    def __post_init__(self) -> None:
        _check_finite(self.value)
        if self.epoch < 0:
            raise UsageError(f"weight: on for at least 0 epochs, not {self.epoch}")

    @property
    def can_turn_off(self) -> bool:
        """Always."""
        return True

    def __call__(self, epoch: int) -> float:
        """The weight, or 0."""
        return self.value if epoch < self.epoch else 0.0

    def describe(self) -> str:
        """Such as "2.5, off after 100 epochs"."""
        return f"{self.value:g}, off after {self.epoch} epochs"


class Adaptive(WeightSchedule):
    """A weight that is dropped to zero for good once the term's loss stops falling.

    Adaptive locality guidance, doi 10.1109/TNNLS.2024.3515076. With epochs counted from 1, mean
    losses `l(e)` and the window `w`:

    - slope: `d(1) = 0`; `d(e) = (l(e) - mean(l(1), ..., l(e - 1))) / e` up to `e = w`; afterwards
      `d(e) = (l(e) - l(e - w)) / w`;
    - smoothed slope: the mean of `d` over the last `min(e, w)` epochs;
    - the term ends after the first epoch, from the second on, whose smoothed slope is at least the
      threshold.

    How we differ: `min_epoch` and `relative` are additions. In the first epochs, while the learning
    rate warms up, losses hardly fall: without `min_epoch` (20 in one reconstruction) the rule may
    end a term before it begins. The published threshold is in units of the loss, so it fits
    teachers whose features are of the published scale; with `relative` it is a fraction of the
    first epoch's loss, and the scale does not matter.

    Args:
        value: The weight until then.
        window: Epochs over which the slope is measured and smoothed (w).
        threshold: In loss per epoch, usually a small negative number.
        min_epoch: Never end the term before this many epochs are done.
        relative: Divide losses by that of the first epoch.

    Raises:
        UsageError: If a setting is out of range.
    """

    def __init__(
        self,
        value: float,
        *,
        window: int = 50,
        threshold: float = -0.02,
        min_epoch: int = 0,
        relative: bool = False,
    ) -> None:
        _check_finite(value, threshold)
        if window < 1:
            raise UsageError(f"weight: the window of an adaptive weight is {window}, not 1 or more")
        self.value = value
        self.window = window
        self.threshold = threshold
        self.min_epoch = min_epoch
        self.relative = relative
        self._losses: list[float] = []
        self._num_epochs_on: int | None = None

    @property
    def can_turn_off(self) -> bool:
        """Always."""
        return True

    def __call__(self, epoch: int) -> float:
        """The weight, or 0 after the epoch in which the loss stopped falling."""
        is_over = self._num_epochs_on is not None and epoch >= self._num_epochs_on
        return 0.0 if is_over else self.value

    def end_epoch(self, epoch: int, mean_loss: float) -> None:
        """Decides whether this was the last epoch of the term."""
        assert self._num_epochs_on is None, f"the term ended before epoch {epoch}"
        assert epoch == len(self._losses), f"epoch {epoch} after {len(self._losses)} epochs"
        self._losses.append(mean_loss)
        num_epochs = len(self._losses)
        if num_epochs >= max(2, self.min_epoch) and self.smoothed_slope() >= self.threshold:
            self._num_epochs_on = num_epochs

    def smoothed_slope(self) -> float:
        """The figure that is compared with the threshold, after the epochs seen so far."""
        last = len(self._losses)
        considered = range(max(1, last - self.window + 1), last + 1)
        scale = self._losses[0] if self.relative and self._losses[0] else 1.0
        return math.fsum(self._slope(e) for e in considered) / len(considered) / scale

    def _slope(self, e: int) -> float:
        """The slope `d(e)`, `e` counted from 1."""
        losses, window = self._losses, self.window
        if e == 1:
            return 0.0
        if e <= window:
            return (losses[e - 1] - math.fsum(losses[: e - 1]) / (e - 1)) / e
        return (losses[e - 1] - losses[e - 1 - window]) / window

    def state_dict(self) -> dict[str, Any]:
        """The losses so far and, once it is known, for how many epochs the term was on."""
        return {"losses": list(self._losses), "num_epochs_on": self._num_epochs_on}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._losses = list(state["losses"])
        self._num_epochs_on = state["num_epochs_on"]

    def describe(self) -> str:
        """Such as "2.5, adaptive (window 50, threshold -0.02)"."""
        settings = [f"window {self.window}", f"threshold {self.threshold:g}"]
        if self.relative:
            settings[-1] += " of the first epoch's loss"
        if self.min_epoch:
            settings.append(f"at least {self.min_epoch} epochs")
        return f"{self.value:g}, adaptive ({', '.join(settings)})"


def _check_finite(*values: float) -> None:
    for value in values:
        if not math.isfinite(value):
            raise UsageError(f"weight: {value} is not a finite number")
