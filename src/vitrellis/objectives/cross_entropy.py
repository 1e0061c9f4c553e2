"""Learning from the labels: cross-entropy, and the losses for long tails that take its place.

The functions, their papers and how class weights enter are in `long_tail_losses.py`. Margins and
priors of the classes are kept on the device but not in checkpoints: they follow from the images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

from pydantic import model_validator
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
from vitrellis.objectives.objective import Head, Signals, WeightedTerm
from vitrellis.objectives.precision import to_float32
from vitrellis.objectives.schedules import WeightSchedule
from vitrellis.objectives.term_sections import TermContext, TermSection
from vitrellis.settings import NonNegative, Positive, ProperFraction


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with class probabilities as targets, batch mean.

    Args:
        logits: `(B, K)`.
        targets: `(B, K)`, each row sums to one.
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
    targets = targets.to(logits.dtype)
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
        """The loss in words, empty for plain cross-entropy."""


class Softmax(LabelLoss):
    """Plain cross-entropy."""

    def forward(
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """See `soft_cross_entropy`."""
        return soft_cross_entropy(logits, targets, class_weights=class_weights)

    def describe(self) -> str:
        """An empty text: plain cross-entropy needs no words."""
        return ""


class LogitAdjustment(LabelLoss):
    """Cross-entropy that compensates for class frequencies; with tau 1 it is balanced softmax.

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
    """Cross-entropy in which images count less the better they are classified.

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


class CrossEntropy(WeightedTerm):
    """Cross-entropy of the class logits with the targets, or what takes its place in a long tail.

    A student with a distillation head learns the labels with its class head alone. Re-weighted, it
    is divided by the weights of the whole batch, whatever portions and devices compute it; the
    published code of LDAM-DRW and DeiT-LT divides each portion by its own.

    Args:
        label_smoothing: See `smoothed`.
        loss: The loss of logits and targets; plain cross-entropy if not given.
        deferred: The last phase of training, None if there is none.
        weight: A number, or a schedule over epochs.
        name: The name of the term in logs and checkpoints.

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
        words = [
            loss.describe(),
            f"label smoothing {label_smoothing:g}" if label_smoothing else "",
            deferred.describe(smoothed=label_smoothing > 0) if deferred is not None else "",
        ]
        super().__init__(name, weight=weight, settings=", ".join(filter(None, words)))
        self.label_smoothing = label_smoothing
        self.loss = loss
        self.deferred = deferred

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar."""
        targets = self._smoothed(signals.targets, signals.epoch)
        value: Tensor = self.loss(signals.logits, targets, self._class_weights(signals.epoch))
        return value

    def is_weighted(self, epoch: int) -> bool:
        """Whether the deferred phase re-weights classes in this epoch."""
        return self._class_weights(epoch) is not None

    def weight_sum(self, targets: Tensor, teacher_logits: Tensor | None, epoch: int) -> Tensor:
        """The sum over images of the weights of their classes, each by its share in the target."""
        del teacher_logits
        class_weights = self._class_weights(epoch)
        assert class_weights is not None, f"{self.name} is not weighted in epoch {epoch}"
        return (self._smoothed(targets, epoch) * class_weights).sum()

    def _class_weights(self, epoch: int) -> Tensor | None:
        return None if self.deferred is None else self.deferred.class_weights_in(epoch)

    def _smoothed(self, targets: Tensor, epoch: int) -> Tensor:
        deferred = self.deferred
        is_off = deferred is not None and deferred.has_begun(epoch) and not deferred.smoothing
        return smoothed(targets, 0.0 if is_off else self.label_smoothing)


class CrossEntropySection(TermSection):
    """Learns from the labels. This term is always part of the objective; weight 0 turns it off."""

    key: ClassVar[str] = "cross_entropy"
    in_every_objective: ClassVar[bool] = True

    label_smoothing: ProperFraction = 0.0
    """The probability mass that is spread evenly over all classes."""
    loss: Literal["softmax", "balanced_softmax", "logit_adjustment", "ldam", "focal"] = "softmax"
    """Plain cross-entropy, or one for long tails: balanced softmax (arXiv 2007.10740), logit
    adjustment (2007.07314), LDAM (1906.07413), focal loss (1708.02002)."""
    tau: NonNegative = 1.0
    """The strength with which `logit_adjustment` compensates for class frequencies; 1 is balanced
    softmax."""
    gamma: NonNegative = 2.0
    """The exponent of `focal`; 0 is plain cross-entropy."""
    margin: NonNegative = 0.5
    """The margin of the rarest class in `ldam`."""
    scale: Positive = 30.0
    """The factor by which `ldam` multiplies logits, which are best cosines
    (`model.args: {cosine: true}`)."""

    @model_validator(mode="after")
    def _check_settings_belong_to_loss(self) -> Self:
        settings = {"tau": "logit_adjustment", "gamma": "focal", "margin": "ldam", "scale": "ldam"}
        for key, loss in settings.items():
            if self.loss != loss and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for loss: {loss}, and the loss here is {self.loss}")
        return self

    @property
    def handles_imbalance(self) -> bool:
        """Whether the loss is one for long tails."""
        return self.loss != "softmax"

    @property
    def reweighted_head(self) -> Head:
        """The class head, which learns the labels."""
        return "class"

    def build(self, context: TermContext) -> CrossEntropy:
        """Makes the term."""
        return CrossEntropy(
            name=context.name,
            weight=context.weight,
            label_smoothing=self.label_smoothing,
            loss=self._build_loss(context.class_counts),
            deferred=context.phases.get("class"),
        )

    def _build_loss(self, class_counts: Tensor) -> LabelLoss:
        match self.loss:
            case "softmax":
                return Softmax()
            case "balanced_softmax":
                return LogitAdjustment(class_counts)
            case "logit_adjustment":
                return LogitAdjustment(class_counts, tau=self.tau)
            case "ldam":
                return LDAM(class_counts, margin=self.margin, scale=self.scale)
            case "focal":
                return Focal(gamma=self.gamma)
