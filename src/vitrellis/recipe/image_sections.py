"""The sections of a recipe on the dataset, the model's input and augmentation, one class each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vitrellis.data.augmentation.steps import amount
from vitrellis.data.augmentation.view import View
from vitrellis.data.sources import SOURCES, described_arguments
from vitrellis.errors import unknown_name
from vitrellis.settings import (
    Arguments,
    Count,
    File,
    Fraction,
    Index,
    NonNegative,
    Number,
    Positive,
    ProperFraction,
    Section,
    Size,
)


class LongTailSection(Section):
    """The long tail is made from a balanced dataset, as the papers make CIFAR-10-LT."""

    profile: Literal["exp", "step"] = "exp"
    """The sizes fall by the same ratio from class to class, or half of the classes are small."""
    imbalance_factor: Annotated[Number, Field(ge=1)] = 100.0
    """The number of images of the largest class, divided by that of the smallest class."""
    seed: Annotated[Index, Field(lt=2**32)] = 0
    """The seed that decides which images are kept; papers use 0."""
    largest: Count | None = None
    """The number of images of the largest class; if not given, the number that every class has."""
    permute: bool = False
    """Whether the data's seed decides which class is large; if not, the first class is."""


class Data(Section):
    """The images to train and test on."""

    source: str = Field(
        default="fashion-mnist",
        description="The layout of the dataset: `folder` or `lists` (text files that name images) "
        "for your own images; `fashion-mnist` lies in this package, `elpv` in another. "
        f"One of: {', '.join(SOURCES)}.",
    )
    root: File | None = None
    """The folder of the dataset; a relative path starts in the current folder, and the run finds
    its images again from any other. Only datasets in packages need none."""
    args: Arguments = Field(
        default_factory=dict,
        description=f"Further settings of the source: {described_arguments()}.",
    )
    on_bad_image: Literal["error", "skip"] = "error"
    """What happens to images that cannot be read: the run ends with an error that names them, or
    they are left out. To find them, `skip` reads every image once before training."""
    max_bad_fraction: ProperFraction = 0.01
    """The share of all images that `on_bad_image=skip` may leave out, rounded up to whole images;
    more are an error."""
    value_range: tuple[Index, Annotated[Index, Field(le=65535)]] | None = None
    """The two levels of 16-bit grey images that become black and white, such as `[0, 4095]` for 12
    bits; 0 and 65,535 if not given."""
    train_size: Count | None = None
    """The number of training images, as equal as possible for all classes; all if not given."""
    val_fraction: ProperFraction = 0.1
    """The share of the training images to validate on, if the dataset has no validation split."""
    folds: Annotated[Count, Field(ge=2)] | None = None
    """The number of parts for cross-validation, each with the same share of every class."""
    fold: Index | None = None
    """The part to test on, counted from 0; the others are for training. It needs `folds`."""
    seed: Index | None = None
    """The seed that decides which images these are; the recipe's seed if not given."""
    long_tail: LongTailSection | None = None
    """Makes the training images unbalanced, after the validation images were set aside."""
    sampler: Literal["uniform", "class_balanced", "square_root"] = "uniform"
    """How an epoch's images are chosen: every training image once; or the same number in all, drawn
    so that all classes are equally frequent, or in proportion to the square root of their sizes. A
    teacher follows its own recipe in this. Losses that compensate for class sizes
    (`balanced_softmax`, `logit_adjustment`) expect `uniform`."""

    @model_validator(mode="after")
    def _check_value_range(self) -> Data:
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError(
                f"value_range is {list(self.value_range)}; the first level must be below the second"
            )
        return self

    @model_validator(mode="after")
    def _check_fold(self) -> Data:
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold belong together: give both, or neither")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise ValueError(
                f"fold is {self.fold}; of {self.folds} folds the last is {self.folds - 1}"
            )
        return self

    @field_validator("source")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SOURCES:
            raise unknown_name("source", name, SOURCES)
        return name

    @model_validator(mode="after")
    def _check_one_choice_of_images(self) -> Data:
        if self.train_size is not None and self.long_tail is not None:
            raise ValueError(
                "train_size chooses as many images of each class, and long_tail as many as its "
                "profile says; drop one of them (data.train_size=null, or data.long_tail=null). "
                "data.long_tail.largest=N sets the size of the tail"
            )
        return self


class ChannelStatistics(Section):
    """The numbers that images in [0, 1] are normalised by."""

    mean: Annotated[tuple[Number, ...], Field(min_length=1)]
    """The mean of each channel."""
    std: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """The standard deviation of each channel."""

    @model_validator(mode="after")
    def _check_channels(self) -> ChannelStatistics:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations; "
                "there must be one of each per channel"
            )
        return self


def _normalization_tag(value: object) -> str:
    return "(or a mapping with mean and std)" if isinstance(value, str) else "(ChannelStatistics)"


class Input(Section):
    """How images reach the model, in validation, evaluation, prediction and exported models alike.

    They are resized, their middle is cut out, and they are normalised, as timm does it. Training
    images are augmented instead.
    """

    img_size: Size = 224
    """The size of the model's images in pixels: one number, or `[height, width]`."""
    channels: Count | None = None
    """The number of image channels; that of the source if not given. Grey images become colour
    ones (3), and colour ones grey (1). Published weights need no such change: their first layer is
    adapted."""
    normalization: Annotated[
        Annotated[
            Literal["imagenet", "cifar", "measured", "model"],
            Tag("(or a mapping with mean and std)"),
        ]
        | Annotated[ChannelStatistics, Tag("(ChannelStatistics)")],
        Discriminator(_normalization_tag),
    ] = "measured"
    """The mean and standard deviation that images are normalised by: those of ImageNet or CIFAR,
    those measured on the training images, those that timm's weights of the model were trained with
    (`model`, which is the default if `init.pretrained`), or numbers: `{mean, std}`."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How images are resized in evaluation; `augmentation.interpolation` if not given."""
    crop_pct: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """The share of a resized image's side that evaluation cuts out, in timm's sense: with 0.875 and
    224 pixels, images are resized to 256 pixels, and the middle 224 are cut out."""
    fit: Literal["squash", "crop"] = "squash"
    """How images of another shape are made to fit: by squashing, or by cropping the centre. Random
    crops of training images (`augmentation.crop: resized`) are cut from whole images."""
    crop_mode: Literal["squash", "center", "border"] | None = None
    """How images of another shape are made to fit in evaluation, by timm's names; as `fit` says if
    not given. `border` keeps the whole image, and adds a border of the mean colour."""
    canvas: Size | Literal["original"] | None = None
    """What random crops are cut from: `original` images, as they are; or images of one size in
    pixels, to which all are first brought as `fit` says. If not given, from images with their own
    shape, which are reduced, if they are large, as far as crops lose no detail."""
    cache: Literal["auto", True, False] = "auto"
    """Whether all images are held: small ones on the training device, photographs decoded in the
    cache folder (`machine.image_cache_gb`) or else in the memory of the computer; `auto` if they
    fit."""


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

    @property
    def smallest_crop(self) -> float | None:
        """The smallest share of the area that a random crop shows; None without such crops."""
        views = [self, self.second_view or self]
        return min((view.scale[0] for view in views if view.crop == "resized"), default=None)

    def summary(self) -> str:
        """The augmentations that are on, in one line."""
        words = self.describe() + amount("mixup", self.mixup) + amount("CutMix", self.cutmix)
        if self.repeats > 1:
            words.append(f"{self.repeats} views of an image in an epoch")
        return ", ".join(words)
