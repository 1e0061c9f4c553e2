"""What changes in the last phase of training: classes are re-weighted, labels no longer smoothed.

Deferred re-weighting (DRW): Cao et al., NeurIPS 2019 (https://arxiv.org/abs/1906.07413); of a
distillation head, DeiT-LT, CVPR 2024 (https://arxiv.org/abs/2404.02900). A network learns features
better with all images counting the same, and its last layers better with classes counting the same.

How we differ from DeiT-LT's code, which weights its loss from the start unless it is told to defer:
nothing is weighted before the phase, and weights are those of the training images of each class.
"""

from __future__ import annotations

from torch import Tensor, nn


class Deferred(nn.Module):
    """The last phase, as one term sees it.

    Args:
        from_epoch: 0-based epoch in which the phase begins.
        class_weights: `(K,)` of the phase, see `effective_number_weights`; None for equal ones.
        smoothing: Whether labels are still smoothed.
    """

    def __init__(
        self, from_epoch: int, *, class_weights: Tensor | None = None, smoothing: bool = True
    ) -> None:
        super().__init__()
        self.from_epoch = from_epoch
        self.smoothing = smoothing
        self.class_weights: Tensor | None
        weights = class_weights.float() if class_weights is not None else None
        self.register_buffer("class_weights", weights, persistent=False)

    def has_begun(self, epoch: int) -> bool:
        """Whether a 0-based epoch is in the phase."""
        return epoch >= self.from_epoch

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
