"""Learning from the labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives.objective import Term
from vitrellis.objectives.precision import widen
from vitrellis.objectives.signals import Signals
from vitrellis.objectives.weights import WeightSchedule


def soft_cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with class probabilities as targets, batch mean.

    Args:
        logits: `(B, K)`.
        targets: `(B, K)`, each row sums to one.
        label_smoothing: Share of each target (epsilon) that is spread evenly over all K classes,
            the right one included: `targets * (1 - eps) + eps / K`.

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
    logits = widen(logits)
    return F.cross_entropy(logits, targets.to(logits.dtype), label_smoothing=label_smoothing)


class CrossEntropy(Term):
    """Cross-entropy of the class logits with the targets.

    A student with a distillation head learns the labels with its class head alone.

    Args:
        label_smoothing: See `soft_cross_entropy`.
        weight: A number, or a schedule over epochs.
        name: What the term is called in logs and checkpoints.

    Raises:
        UsageError: If `label_smoothing` is not in [0, 1).
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        weight: WeightSchedule | float = 1.0,
        name: str = "cross_entropy",
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"{name}: label_smoothing is {label_smoothing}, not in [0, 1)")
        super().__init__(
            name,
            weight=weight,
            settings=f"label smoothing {label_smoothing:g}" if label_smoothing else "",
        )
        self.label_smoothing = label_smoothing

    def forward(self, signals: Signals) -> Tensor:
        """The unweighted loss, a scalar."""
        return soft_cross_entropy(
            signals.logits, signals.targets, label_smoothing=self.label_smoothing
        )
