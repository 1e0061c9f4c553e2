"""The section of a recipe on augmentation."""

from __future__ import annotations

from vitrellis.data.augmentation.steps import amount
from vitrellis.data.augmentation.view import View
from vitrellis.settings import Count, Fraction, NonNegative


class Augmentation(View):
    """How training images are augmented. Everything is drawn anew for each image."""

    mixup: NonNegative = 0.0
    """The alpha of mixup; 0 turns it off."""
    cutmix: NonNegative = 0.0
    """The alpha of CutMix; 0 turns it off."""
    mix_switch: Fraction = 0.5
    """The probability of CutMix, rather than mixup, if both are on."""
    mix_probability: Fraction = 1.0
    """The probability that an image is mixed at all."""
    repeats: Count = 1
    """The number of views of the same image in an epoch (repeated augmentation); an epoch has that
    many times fewer images."""
    second_view: View | None = None
    """The augmentation of a second view, for terms that compare two views of an image
    (`objective.paco`). The keys are those above; a key that is left out has its default, not the
    value of the first view. The second view is augmented as the first if not given."""

    def summary(self) -> str:
        """The augmentations that are on, in one line."""
        words = self.describe() + amount("mixup", self.mixup) + amount("CutMix", self.cutmix)
        if self.repeats > 1:
            words.append(f"{self.repeats} views of an image in an epoch")
        return ", ".join(words)
