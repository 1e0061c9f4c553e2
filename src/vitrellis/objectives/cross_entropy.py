"""Learning from the labels."""

from __future__ import annotations

from torch import Tensor

from vitrellis.errors import UsageError
from vitrellis.objectives.drw import Deferred
from vitrellis.objectives.label_losses import LabelLoss, Softmax, smoothed
from vitrellis.objectives.objective import Term
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.signals import Signals


class CrossEntropy(Term):
    """Cross-entropy of the class logits with the targets, or what takes its place in a long tail.

    A student with a distillation head learns the labels with its class head alone.

    Args:
        label_smoothing: See `smoothed`.
        loss: Plain cross-entropy if not given; others are in `label_losses.py`.
        deferred: What changes in the last phase of training; None for nothing.
        weight: A number, or a schedule over epochs.
        name: What the term is called in logs and checkpoints.

    Raises:
        UsageError: If `label_smoothing` is not in [0, 1).
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        loss: LabelLoss | None = None,
        deferred: Deferred | None = None,
        weight: WeightSchedule | float = 1.0,
        name: str = "cross_entropy",
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"{name}: label_smoothing is {label_smoothing}, not in [0, 1)")
        loss = loss if loss is not None else Softmax()
        said = [
            loss.describe(),
            f"label smoothing {label_smoothing:g}" if label_smoothing else "",
            deferred.describe(smoothed=label_smoothing > 0) if deferred is not None else "",
        ]
        super().__init__(name, weight=weight, settings=", ".join(filter(None, said)))
        self.label_smoothing = label_smoothing
        self.loss = loss
        self.deferred = deferred

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar."""
        smoothing, class_weights = self.label_smoothing, None
        if self.deferred is not None and self.deferred.has_begun(signals.epoch):
            class_weights = self.deferred.class_weights
            smoothing = smoothing if self.deferred.smoothing else 0.0
        value: Tensor = self.loss(
            signals.logits, smoothed(signals.targets, smoothing), class_weights
        )
        return value
