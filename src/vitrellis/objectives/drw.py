"""The last phase of training, in which classes are re-weighted and labels no longer smoothed.

Deferred re-weighting (DRW): Cao et al., NeurIPS 2019 (https://arxiv.org/abs/1906.07413); of a
distillation head, DeiT-LT, CVPR 2024 (https://arxiv.org/abs/2404.02900). A network learns features
better with all images counting the same, and its last layers better with classes counting the same.

How we differ from DeiT-LT's code, which weights its loss from the start unless it is told to defer:
nothing is weighted before the phase, and weights are those of the training images of each class.
A re-weighted loss is divided by the weights of the images of the whole batch. The published code
divides it within each portion on each device, by the weights of 128 images in DeiT-LT, so that an
image of a rare class counts less the more of its kind are in its portion.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor, nn

from vitrellis.objectives.long_tail_losses import effective_number_weights
from vitrellis.objectives.objective import HEADS, Head
from vitrellis.settings import Index, ProperFraction, Section


class Deferred(nn.Module):
    """The settings of the last phase for one term.

    Args:
        from_epoch: The 0-based epoch in which the phase begins.
        class_weights: `(K,)` weights in the phase, see `effective_number_weights`; None for equal
            weights.
        smoothing: Whether labels are still smoothed in the phase.
    """

    def __init__(
        self, from_epoch: int, *, class_weights: Tensor | None = None, smoothing: bool = False
    ) -> None:
        super().__init__()
        self.from_epoch = from_epoch
        self.smoothing = smoothing
        self.class_weights: Tensor | None
        weights = class_weights.float() if class_weights is not None else None
        self.register_buffer("class_weights", weights, persistent=False)

    def has_begun(self, epoch: int) -> bool:
        """Whether a 0-based epoch belongs to the phase."""
        return epoch >= self.from_epoch

    def class_weights_in(self, epoch: int) -> Tensor | None:
        """The `(K,)` weights of classes in a 0-based epoch; None where they count the same."""
        return self.class_weights if self.has_begun(epoch) else None

    def describe(self, *, smoothed: bool = False) -> str:
        """Such as "re-weighted (by 0.05 to 3.99) from epoch 161 on"; epochs are counted from 1.

        Args:
            smoothed: Whether labels are smoothed before the phase.
        """
        changes = []
        if self.class_weights is not None:
            low, high = self.class_weights.min().item(), self.class_weights.max().item()
            changes.append(f"re-weighted (by {low:.3g} to {high:.3g})")
        if smoothed and not self.smoothing:
            changes.append("not smoothed")
        return f"{' and '.join(changes)} from epoch {self.from_epoch + 1} on" if changes else ""


class DeferredSection(Section):
    """A last phase, in which classes count the same: deferred re-weighting (DRW).

    Sources: Cao et al., arXiv 1906.07413, who re-weight the loss of the labels; DeiT-LT, arXiv
    2404.02900, which re-weights the loss of the distillation head, and mixes no images in it.
    """

    after_epochs: Index | None = None
    """The number of epochs before the phase begins."""
    share: ProperFraction | None = None
    """The same as a share of `training.epochs`; 0.8 if neither is given."""
    reweight: Literal["class", "distillation", "both", "none"] = "class"
    """The loss that is re-weighted by class: `objective.cross_entropy` by the label,
    `objective.hard` by the class that the teacher predicts, or both."""
    beta: ProperFraction = 0.9999
    """A class of n images weighs `(1 - beta) / (1 - beta^n)` (Cui et al., arXiv 1901.05555)."""
    mixing: bool = False
    """Whether images are still mixed (`augmentation.mixup`, `augmentation.cutmix`)."""
    smoothing: bool = False
    """Whether labels are still smoothed (`objective.cross_entropy.label_smoothing`)."""

    @model_validator(mode="after")
    def _check_begins_once(self) -> Self:
        if self.after_epochs is not None and self.share is not None:
            raise ValueError("after_epochs and share both say when it begins; give one of them")
        return self

    def first_epoch(self, epochs: int) -> int:
        """The 0-based epoch in which the phase begins, in a run of `epochs` epochs."""
        if self.after_epochs is not None:
            return self.after_epochs
        share = self.share if self.share is not None else 0.8
        return math.floor(share * epochs + 1e-9)  # 0.7 * 10 is a little less than 7

    def reweights(self, head: Head) -> bool:
        """Whether the loss of this head is re-weighted."""
        return self.reweight in (head, "both")

    def phases(self, epochs: int, class_counts: Tensor) -> dict[Head, Deferred]:
        """The phase for the terms of each head.

        Args:
            epochs: The number of epochs of the run.
            class_counts: `(K,)` training images of each class.

        Raises:
            UsageError: If a loss is re-weighted and a class has no image.
        """
        return {
            head: Deferred(
                self.first_epoch(epochs),
                class_weights=effective_number_weights(class_counts, beta=self.beta)
                if self.reweights(head)
                else None,
                smoothing=self.smoothing,
            )
            for head in HEADS
        }
