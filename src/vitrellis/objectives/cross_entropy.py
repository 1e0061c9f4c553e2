"""Learning from the labels: cross-entropy, and the losses for long tails that take its place.

The functions, their papers and how class weights enter are in `long_tail_losses.py`. What is known
of the classes beforehand is kept on the device, and not in checkpoints: the images decide it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives.drw import Deferred
from vitrellis.objectives.long_tail_losses import (
    focal,
    ldam,
    ldam_margins,
    log_shares,
    logit_adjustment,
    weighted_mean,
)
from vitrellis.objectives.objective import Signals, Term
from vitrellis.objectives.precision import to_float32
from vitrellis.objectives.schedules import WeightSchedule


def soft_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with class probabilities as targets, batch mean.

    Args:
        logits: `(B, K)`.
        targets: `(B, K)`, each row sums to one.
        label_smoothing: See `smoothed`.
        class_weights: `(K,)`, None for equal ones. The mean is then that of `weighted_mean`.

    Returns:
        A scalar.

    Raises:
        UsageError: If the shapes differ.
    """
    if logits.shape != targets.shape:
        raise UsageError(
            f"cross-entropy: targets are {tuple(targets.shape)} and logits {tuple(logits.shape)}; "
            "both should be (batch, classes), so labels have to be made one-hot"
        )
    logits = to_float32(logits)
    targets = smoothed(targets.to(logits.dtype), label_smoothing)
    if class_weights is None:
        return F.cross_entropy(logits, targets)
    return weighted_mean(-logits.log_softmax(dim=-1), targets, class_weights)


def smoothed(targets: Tensor, label_smoothing: float) -> Tensor:
    """`targets * (1 - eps) + eps / K`.

    Args:
        targets: `(B, K)` class probabilities.
        label_smoothing: Share of each target (eps) that is spread evenly over all K classes, the
            right one included.
    """
    if label_smoothing == 0:
        return targets
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]


class LabelLoss(nn.Module, ABC):
    """A loss of logits and class probabilities."""

    @abstractmethod
    def forward(
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """A scalar of `(B, K)` logits and targets, and `(K,)` weights or None for equal ones."""

    @abstractmethod
    def describe(self) -> str:
        """The loss in words, empty for the ordinary one."""


class Softmax(LabelLoss):
    """Plain cross-entropy."""

    def forward(
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """See `soft_cross_entropy`."""
        return soft_cross_entropy(logits, targets, class_weights=class_weights)

    def describe(self) -> str:
        """Nothing: this is what one expects."""
        return ""


class LogitAdjustment(LabelLoss):
    """Cross-entropy that makes up for how often each class is seen; with tau 1 balanced softmax.

    Args:
        class_counts: `(K,)` training images of each class.
        tau: See `logit_adjustment`.

    Raises:
        UsageError: If a class has no image, or `tau` is negative.
    """

    def __init__(self, class_counts: Tensor, *, tau: float = 1.0) -> None:
        super().__init__()
        if not 0 <= tau < float("inf"):
            raise UsageError(f"logit adjustment: tau is {tau}, it should be 0 or more")
        self.tau = tau
        self.log_prior: Tensor
        self.register_buffer("log_prior", log_shares(class_counts).float(), persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """See `logit_adjustment`."""
        return logit_adjustment(
            logits, targets, log_prior=self.log_prior, tau=self.tau, class_weights=class_weights
        )

    def describe(self) -> str:
        """Such as "logit adjustment, tau 1.5"."""
        return "balanced softmax" if self.tau == 1 else f"logit adjustment, tau {self.tau:g}"


class LDAM(LabelLoss):
    """Cross-entropy with a margin for each label, larger for rare classes.

    Args:
        class_counts: `(K,)` training images of each class.
        margin: The largest margin, see `ldam_margins`.
        scale: See `ldam`.

    Raises:
        UsageError: If a class has no image, or a setting is out of range.
    """

    def __init__(self, class_counts: Tensor, *, margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        if not (0 <= margin < float("inf") and 0 < scale < float("inf")):
            raise UsageError(
                f"LDAM: margin is {margin} and scale {scale}; they should be 0 or more, and above 0"
            )
        self.largest = margin
        self.scale = scale
        self.margins: Tensor
        margins = ldam_margins(class_counts, largest=margin)
        self.register_buffer("margins", margins.float(), persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """See `ldam`."""
        return ldam(
            logits, targets, margins=self.margins, scale=self.scale, class_weights=class_weights
        )

    def describe(self) -> str:
        """Such as "LDAM, margins up to 0.5, scale 30"."""
        return f"LDAM, margins up to {self.largest:g}, scale {self.scale:g}"


class Focal(LabelLoss):
    """Cross-entropy in which images that are known well count less.

    Args:
        gamma: See `focal`.

    Raises:
        UsageError: If `gamma` is negative.
    """

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise UsageError(f"focal loss: gamma is {gamma}, it should be 0 or more")
        self.gamma = gamma

    def forward(
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """See `focal`."""
        return focal(logits, targets, gamma=self.gamma, class_weights=class_weights)

    def describe(self) -> str:
        """Such as "focal, gamma 2"."""
        return f"focal, gamma {self.gamma:g}"


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
