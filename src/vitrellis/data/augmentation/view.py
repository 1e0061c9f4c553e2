"""The keys of one view of an image, gathered from all augmentations."""

from __future__ import annotations

from vitrellis.data.augmentation.color_jitter import BlurKeys, ColorJitterKeys, GreyscaleKeys
from vitrellis.data.augmentation.crops import CropKeys
from vitrellis.data.augmentation.erasing import CutoutKeys, ErasingKeys
from vitrellis.data.augmentation.policies import PolicyKeys
from vitrellis.data.augmentation.steps import AugmentationKeys, Step


class View(
    CutoutKeys,
    ErasingKeys,
    BlurKeys,
    GreyscaleKeys,
    ColorJitterKeys,
    PolicyKeys,
    CropKeys,
):
    """The augmentation of one image, in the order of the keys."""

    # the bases stand in the reverse order, because pydantic puts the keys of the last base first

    def steps(self) -> list[Step]:
        """The steps after cropping and flipping, in their order."""
        steps = [keys.step(self) for keys in AUGMENTATIONS]
        return [step for step in steps if step is not None]

    def describe(self) -> list[str]:
        """The augmentations that are on, in a few words each."""
        words = [word for keys in AUGMENTATIONS for word in keys.words(self)]
        return [*self.crop_words(), *words]


AUGMENTATIONS = tuple(
    keys for keys in reversed(View.__bases__) if issubclass(keys, AugmentationKeys)
)
"""The augmentations after cropping and flipping, in the order in which they are applied."""
