"""The recipe's section on how training images are varied and mixed."""

from __future__ import annotations

from vitrellis.data.augmentation.steps import amount
from vitrellis.data.augmentation.view import View
from vitrellis.settings import Count, Fraction, NonNegative


class Augmentation(View):
    """How training images are varied. All of it differs from image to image."""

    mixup: NonNegative = 0.0
    """Alpha of mixup, 0 for none."""
    cutmix: NonNegative = 0.0
    """Alpha of CutMix, 0 for none."""
    mix_switch: Fraction = 0.5
    """How often CutMix is taken where both are on."""
    mix_probability: Fraction = 1.0
    """How often images are mixed at all."""
    repeats: Count = 1
    """Views of the same image in an epoch (repeated augmentation); as many fewer images."""
    second_view: View | None = None
    """How an image is varied once more for terms that compare two views of it (`objective.paco`):
    keys as above, with defaults of their own. As the first view if not given."""

    def summary(self) -> str:
        """The augmentations that are on, in one line."""
        words = self.describe() + amount("mixup", self.mixup) + amount("CutMix", self.cutmix)
        if self.repeats > 1:
            words.append(f"{self.repeats} views of an image in an epoch")
        return ", ".join(words)
