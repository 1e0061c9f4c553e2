"""The weight of a term in each epoch, and how a recipe states it.

Epochs are 0-based. A weight of 0 switches a term off: neither it nor what it needs is computed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag

from vitrellis.errors import UsageError, unknown_name
from vitrellis.settings import Count, Index, NonNegative, Number, Section

Shape = Literal["linear", "cosine"]
RAMP_SHAPES: tuple[Shape, ...] = get_args(Shape)


class WeightSchedule(ABC):
    """A weight over the epochs of a run."""

    @abstractmethod
    def __call__(self, epoch: int) -> float:
        """The weight in this epoch."""

    @abstractmethod
    def end_epoch(self, epoch: int, mean_loss: float) -> None:
        """Records the term's mean unweighted value over an epoch in which it was on."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule: numbers, lists and None."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""

    @abstractmethod
    def describe(self) -> str:
        """The schedule in words, such as "2.5, off after 100 epochs"."""


class _Fixed(WeightSchedule):
    """A weight that is known before the run begins."""

    def end_epoch(self, epoch: int, mean_loss: float) -> None:
        """Does nothing: the losses do not change the weight."""

    def state_dict(self) -> dict[str, Any]:
        """An empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that there is nothing to restore."""
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
        epochs: The number of epochs that the change takes.
        shape: "linear", or "cosine": half a cosine wave, flat at both ends.
    """

    value: float
    to: float
    epochs: int
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        _check_finite(self.value, self.to)
        if self.epochs < 1:
            raise UsageError(f"weight: a ramp takes at least 1 epoch, not {self.epochs}")
        if self.shape not in RAMP_SHAPES:
            raise unknown_name("shape of a weight", self.shape, RAMP_SHAPES)

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
        epoch: The number of epochs in which the term is on: 0 to `epoch - 1`.
    """

    value: float
    epoch: int

    def __post_init__(self) -> None:
        _check_finite(self.value)
        if self.epoch < 0:
            raise UsageError(f"weight: on for at least 0 epochs, not {self.epoch}")

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
    rate warms up, losses hardly fall: with `min_epoch=0`, as published, the rule may end a term
    before it begins; 20, the default, is that of one reconstruction. The published threshold is in
    units of the loss, so it fits teachers whose features are of the published scale; with
    `relative` it is a fraction of the first epoch's loss, and the scale does not matter.

    Args:
        value: The weight until then.
        window: Epochs over which the slope is measured and smoothed (w).
        threshold: The slope at which the term ends, in loss per epoch; usually a small negative
            number.
        min_epoch: The term never ends before this many epochs are done.
        relative: Whether losses are divided by that of the first epoch.

    Raises:
        UsageError: If a setting is out of range.
    """

    def __init__(
        self,
        value: float,
        *,
        window: int = 50,
        threshold: float = -0.02,
        min_epoch: int = 20,
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
        """The slope that is compared with the threshold, after the epochs seen so far."""
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


class WeightSection(Section, ABC):
    """A weight that changes over the epochs, as a recipe says it."""

    @abstractmethod
    def schedule(self, factor: float) -> WeightSchedule:
        """The schedule, with every weight multiplied by `factor`."""


class RampWeight(WeightSection):
    """A weight that moves from one value to another, and stays there."""

    value: NonNegative
    """The weight in the first epoch."""
    to: NonNegative
    """The weight after `epochs` epochs, and from then on."""
    epochs: Count
    """The number of epochs that the change takes."""
    shape: Shape = "linear"
    """The shape of the change: a straight line, or half a cosine wave."""

    def schedule(self, factor: float) -> Ramp:
        """See `Ramp`."""
        to = self.to * factor
        return Ramp(self.value * factor, to=to, epochs=self.epochs, shape=self.shape)


class OffAfterWeight(WeightSection):
    """A weight that is dropped to zero at a fixed time."""

    value: NonNegative
    """The weight until then."""
    off_after: Count
    """The number of epochs with the term; from then on its weight is zero."""

    def schedule(self, factor: float) -> OffAfter:
        """See `OffAfter`."""
        return OffAfter(self.value * factor, epoch=self.off_after)


class AdaptiveWeight(WeightSection):
    """A weight that is dropped to zero for good once the term's loss stops falling.

    Source: Rostand et al., adaptive locality guidance, doi 10.1109/TNNLS.2024.3515076.
    """

    value: NonNegative
    """The weight until then."""
    adaptive: Literal[True]
    """Always `true`; it tells this kind of weight from the others."""
    window: Count = 50
    """Epochs over which the slope of the loss is measured and smoothed."""
    threshold: Number = -0.02
    """The term ends after the first epoch whose smoothed slope, per epoch, is at least this."""
    min_epoch: Index = 20
    """The term never ends before this many epochs are done."""
    relative: bool = False
    """Whether the threshold is a fraction of the loss instead of being in units of the loss."""

    def schedule(self, factor: float) -> Adaptive:
        """See `Adaptive`."""
        settings = self.model_dump(exclude={"value", "adaptive"})
        return Adaptive(self.value * factor, **settings)


def _weight_tag(value: object) -> str | None:
    if isinstance(value, Section):
        return f"({type(value).__name__})"
    if not isinstance(value, Mapping):
        return "(number)"
    if value.get("adaptive") is not None:
        return "(AdaptiveWeight)"
    if value.get("off_after") is not None:
        return "(OffAfterWeight)"
    if value.get("to") is not None or value.get("epochs") is not None:
        return "(RampWeight)"
    return None


Weight = Annotated[
    Annotated[NonNegative, Tag("(number)")]
    | Annotated[RampWeight, Tag("(RampWeight)")]
    | Annotated[OffAfterWeight, Tag("(OffAfterWeight)")]
    | Annotated[AdaptiveWeight, Tag("(AdaptiveWeight)")],
    Discriminator(
        _weight_tag,
        custom_error_type="weight",
        custom_error_message=(
            "not a weight; it would be a number, or one of [value, to, epochs, shape], "
            "[value, off_after], [value, adaptive: true, window, threshold, min_epoch, relative]"
        ),
    ),
    Field(
        description="The weight of the term: a number, or a schedule over epochs: "
        "`{value, to, epochs, shape}`, `{value, off_after}`, "
        "`{value, adaptive: true, window, threshold, min_epoch, relative}`."
    ),
]
"""The weight of a term: a number, or a schedule over epochs."""


def build_weight(weight: Weight, factor: float = 1.0) -> WeightSchedule:
    """The schedule of a recipe's weight.

    Args:
        weight: The weight as the recipe says it.
        factor: A number that the weight is multiplied by.
    """
    if isinstance(weight, WeightSection):
        return weight.schedule(factor)
    return Constant(weight * factor)


def _check_finite(*values: float) -> None:
    for value in values:
        if not math.isfinite(value):
            raise UsageError(f"weight: {value} is not a finite number")
