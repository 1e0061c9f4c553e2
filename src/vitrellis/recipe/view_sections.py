"""What a recipe says about how training images are varied, and mixed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vitrellis.settings import (
    Count,
    Fraction,
    Index,
    NonNegative,
    Positive,
    Section,
)


class View(Section):
    """How one image is varied, in the order of the keys."""

    crop: Literal["resized", "padded", "none"] = "resized"
    """A random part resized, the image moved within a black border, or the whole image."""
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    """Smallest and largest share of the area that a resized crop shows."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect of a resized crop, width over height."""
    padding: Index = 4
    """Width of the border for a padded crop, in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How images are resized, in evaluation too if `input.interpolation` does not say."""
    flip: Fraction = 0.5
    """How often left and right are exchanged."""
    vertical_flip: Fraction = 0.0
    """How often up and down are exchanged."""
    rand_augment: Annotated[str, Field(pattern=r"^rand(-[a-z]+\d+(\.\d+)?)+$")] | None = None
    """RandAugment in timm's notation, such as `rand-m9-mstd0.5-inc1`; none if not given."""
    auto_augment: Literal["cifar10", "imagenet", "svhn"] | None = None
    """AutoAugment's policy that was learned on these images, in place of RandAugment."""
    color_jitter: tuple[
        NonNegative, NonNegative, NonNegative, Annotated[NonNegative, Field(le=0.5)]
    ] = (0.0, 0.0, 0.0, 0.0)
    """How far brightness, contrast and saturation vary around 1, and the hue around 0, in circles;
    SimCLR has `[0.4, 0.4, 0.4, 0.1]`. Grey images have neither saturation nor hue."""
    color_jitter_probability: Fraction = 1.0
    """How often colours vary at all."""
    grayscale: Fraction = 0.0
    """How often colours are taken away."""
    blur: Fraction = 0.0
    """How often images are blurred, by a Gaussian kernel of about a tenth of a side."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Smallest and largest deviation of that kernel, in pixels that the model sees."""
    erasing: Fraction = 0.0
    """How often a rectangle is replaced by noise."""
    cutout: Index = 0
    """Side in pixels of a square that is replaced by the mean colour, 0 for none; its centre is
    anywhere, and the border cuts it off."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        pairs = {"scale": self.scale, "ratio": self.ratio, "blur_sigma": self.blur_sigma}
        for name, (low, high) in pairs.items():
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]; the smaller number goes first")
        if self.scale[1] > 1:
            raise ValueError(f"scale is {list(self.scale)}; no part is larger than the whole, 1")
        return self

    @model_validator(mode="after")
    def _follows_one_policy(self) -> Self:
        if self.rand_augment is not None and self.auto_augment is not None:
            raise ValueError(
                "rand_augment and auto_augment take each other's place; give one of them "
                "(rand_augment: null takes back what another recipe says)"
            )
        return self


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
