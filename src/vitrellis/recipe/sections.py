"""What a recipe says about images, models, optimisation and the machine, one class a section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vitrellis.errors import unknown_name
from vitrellis.settings import (
    Arguments,
    AutoOrIndex,
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

SOURCE_NAMES = (
    "fashion-mnist",
    "folder",
    "cifar10",
    "cifar100",
    "flowers102",
    "tiny-imagenet",
    "chaoyang",
    "elpv",
    "lists",
    "imagenet-lt",
    "inaturalist-2018",
    "inaturalist",
)
"""The keys of `vitrellis.data.sources.SOURCES`, here to be known without loading torch."""


class LongTailSection(Section):
    """A long tail made of a balanced set, as in the papers' CIFAR-10-LT and CIFAR-100-LT."""

    profile: Literal["exp", "step"] = "exp"
    """Sizes fall by the same ratio from class to class, or half the classes are small."""
    imbalance_factor: Annotated[Number, Field(ge=1)] = 100.0
    """Images of the largest class over those of the smallest."""
    seed: Annotated[Index, Field(lt=2**32)] = 0
    """Decides which images are kept; papers use 0."""
    largest: Count | None = None
    """Images of the largest class; as many as every class has if not given."""
    permute: bool = False
    """Draw from the data's seed which class is large; otherwise the first class is the largest."""


class Data(Section):
    """Which images."""

    source: str = "fashion-mnist"
    """What kind of data set: `folder` or `lists` (text files that name images) for your own;
    `fashion-mnist` (packaged), `elpv` (solar cells, from a package), `cifar10`, `cifar100`,
    `flowers102`, `tiny-imagenet`, `chaoyang`, `imagenet-lt`, `inaturalist-2018` (text lists),
    `inaturalist` (JSON, by taxonomy)."""
    root: File | None = None
    """Its folder; a relative path starts in the current folder. Only sets in packages need none."""
    args: Arguments = Field(default_factory=dict)
    """What else a source can be told: `official_val` of flowers102, `classes` of elpv, `lists` and
    `domain` of text lists, `level` and `year` of inaturalist."""
    train_size: Count | None = None
    """Train on this many images, as many of each class as possible; all if not given."""
    val_fraction: ProperFraction = 0.1
    """Share of the training images to validate on, if the set has no validation split."""
    folds: Annotated[Count, Field(ge=2)] | None = None
    """Cut the training images into so many parts, of equal classes, for cross-validation."""
    fold: Index | None = None
    """The part that is tested on, from 0; the others are trained on. Not without `folds`."""
    seed: Index | None = None
    """Decides which images these are; the recipe's seed if not given."""
    long_tail: LongTailSection | None = None
    """Make the training images unbalanced, after the validation images were set aside."""
    sampler: Literal["uniform", "class_balanced", "square_root"] = "uniform"
    """Every training image once an epoch; or as many in all, drawn so that all classes are shown as
    often, or in proportion to the root of their sizes. A teacher follows its own recipe in this.
    Losses that make up for sizes (`balanced_softmax`, `logit_adjustment`) expect `uniform`."""

    @model_validator(mode="after")
    def _is_a_fold(self) -> Data:
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
        if name not in SOURCE_NAMES:
            raise unknown_name("source", name, SOURCE_NAMES)
        return name

    @model_validator(mode="after")
    def _one_choice(self) -> Data:
        if self.train_size is not None and self.long_tail is not None:
            raise ValueError(
                "train_size chooses as many images of each class, and long_tail as many as its "
                "profile says; give one of them (data.long_tail.largest sets the size of the tail)"
            )
        return self


class ChannelStatistics(Section):
    """Normalisation by given numbers, for images in [0, 1]."""

    mean: Annotated[tuple[Number, ...], Field(min_length=1)]
    """One per channel."""
    std: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """One per channel."""

    @model_validator(mode="after")
    def _same_channels(self) -> ChannelStatistics:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations; "
                "there must be one of each per channel"
            )
        return self


def _normalization_tag(value: object) -> str:
    return "(or a mapping with mean and std)" if isinstance(value, str) else "(ChannelStatistics)"


class Input(Section):
    """How images reach the model, in training, evaluation and prediction alike."""

    img_size: Size = 224
    """Pixels the model sees: one number, or `[height, width]`."""
    channels: Count | None = None
    """Image channels; those of the source if not given."""
    normalization: Annotated[
        Annotated[Literal["imagenet", "cifar", "measured"], Tag("(or a mapping with mean and std)")]
        | Annotated[ChannelStatistics, Tag("(ChannelStatistics)")],
        Discriminator(_normalization_tag),
    ] = "measured"
    """Mean and deviation: ImageNet's, CIFAR's, measured on the training images, or given."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How images are resized in evaluation; `augmentation.interpolation` if not given."""
    fit: Literal["squash", "crop"] = "squash"
    """Other shapes become the model's by squashing, or by cropping the centre."""
    canvas: Size | None = None
    """Pixels at which images are stored before augmentation; chosen from the data if not given."""
    cache: Literal["auto", True, False] = "auto"
    """Whether all images are held on the training device; `auto` if they fit."""


class Model(Section):
    """The student: any model that timm or Vitrellis registers."""

    name: str
    """As listed by `vitrellis models --all`."""
    pretrained: bool = False
    """Start from timm's published weights (downloaded once)."""
    weights: File | None = None
    """Start from the weights in this file."""
    zero_head: bool = False
    """Start the classifier at exactly zero, as the published DeiT runs; not for distillation."""
    distillation_head: bool = False
    """Give it a second classifier, which learns from the teacher alone; predictions are averaged.
    Models with a distillation token (`*_distilled_*`) have one already."""
    args: Arguments = Field(default_factory=dict)
    """Further arguments of the model, such as `drop_path_rate`."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All that decides on the architecture besides the name."""
        return self.args | ({"distillation_head": True} if self.distillation_head else {})


def _over_epochs_tag(value: object) -> str:
    return "(list)" if isinstance(value, list | tuple) else "(number)"


class SAM(Section):
    """The gradient is taken where the loss is worst nearby, so that flat minima are found.

    Source: Foret et al., Sharpness-Aware Minimization, ICLR 2021, arXiv 2010.01412.
    """

    rho: Annotated[
        Annotated[NonNegative, Tag("(number)")]
        | Annotated[
            Annotated[tuple[tuple[Index, NonNegative], ...], Field(min_length=1)], Tag("(list)")
        ],
        Discriminator(_over_epochs_tag),
    ] = 0.05
    """How far away to look: a number, or its value from epochs on: `[[0, 0.05], [10, 0.1]]`.
    While it is 0, steps are plain ones and cost no more; otherwise they take twice as long."""

    @model_validator(mode="after")
    def _in_order(self) -> SAM:
        epochs = [epoch for epoch, _ in self.steps]
        if epochs[0] != 0 or epochs != sorted(set(epochs)):
            raise ValueError(
                f"rho is given from epochs {epochs} on; the first must be 0, and each later than "
                "the one before, such as [[0, 0.05], [10, 0.1]]"
            )
        return self

    @property
    def steps(self) -> tuple[tuple[int, float], ...]:
        """`rho` as pairs of an epoch and the value from then on."""
        return ((0, self.rho),) if isinstance(self.rho, float) else self.rho


class OptimizerSection(Section):
    """How weights are changed."""

    name: Literal["adamw", "sgd"] = "adamw"
    """Which optimizer."""
    lr: Positive = 1e-3
    """Learning rate after the warm-up."""
    lr_per_batch: Count | None = None
    """If given, `lr` is for this batch size, and is scaled in proportion to the real one."""
    weight_decay: NonNegative = 0.05
    """Decay; not of biases, one-dimensional parameters, tokens and position embeddings."""
    betas: tuple[ProperFraction, ProperFraction] = (0.9, 0.999)
    """Of adamw."""
    momentum: ProperFraction = 0.9
    """Of sgd."""
    nesterov: bool = True
    """Of sgd."""
    head_lr_ratio: Positive = 1.0
    """The classifier's learning rate, as a multiple of the others'."""
    sam: SAM | None = None
    """Look for flat minima (sharpness-aware minimization): `{rho: 0.05}`."""


class Schedule(Section):
    """How the learning rate moves."""

    name: Literal["cosine", "constant", "step"] = "cosine"
    """After the warm-up: a half cosine down to `min_lr`, no change, or `factors` from `milestones`
    on."""
    warmup_epochs: NonNegative = 0.0
    """It rises in a straight line for this long; 5 to 20 is usual for transformers."""
    warmup_factor: Fraction = 0.001
    """The warm-up begins at this multiple of the learning rate."""
    min_lr: NonNegative = 0.0
    """Where the cosine ends."""
    per: Literal["step", "epoch"] = "step"
    """How often it moves."""
    shift_cosine: bool = True
    """Begin the cosine after the warm-up; published recipes count it from the very first epoch."""
    milestones: tuple[Count, ...] = ()
    """Of `step`: after how many epochs the rate changes."""
    factors: tuple[Positive, ...] = ()
    """Of `step`: what it is multiplied by from each milestone on, each time counted from `lr`."""

    @model_validator(mode="after")
    def _has_its_steps(self) -> Schedule:
        if (self.name == "step") != bool(self.milestones or self.factors):
            raise ValueError(
                "milestones and factors belong to name: step, and it needs both, such as "
                "milestones: [160, 180], factors: [0.01, 0.0001]"
            )
        if len(self.milestones) != len(self.factors):
            raise ValueError(
                f"{len(self.milestones)} milestones and {len(self.factors)} factors; "
                "there must be one factor for each milestone"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones are {list(self.milestones)}; they should rise")
        return self


class Training(Section):
    """How long, in what portions, how precisely."""

    epochs: Count
    """Passes over the training images."""
    batch_size: Count = 64
    """Images per optimizer step, over all devices and accumulated portions together."""
    accumulate: Count = 1
    """Portions in which a batch is computed, to save memory."""
    clip_grad: Positive | None = None
    """Largest norm of the gradient; not limited if not given."""
    drop_last: bool = True
    """Leave out an epoch's last batch if it is not full."""
    ema: ProperFraction | None = None
    """Decay of a moving average of the weights, which is then what is evaluated; none if not given.
    """
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the arithmetic."""
    compile: bool = False
    """Compile the models: faster, after a slow start."""
    channels_last: bool = False
    """Memory layout that suits convolutions on GPUs."""
    checkpoint_minutes: NonNegative = 2.0
    """Least time between two checkpoints from which a run can be continued."""
    eval_every: Count = 1
    """Validate after every so many epochs, and after the last."""
    select_by: Literal["top1", "balanced_accuracy"] = "top1"
    """Which validation figure the best epoch is chosen by; for unbalanced classes, the second."""

    @model_validator(mode="after")
    def _divides(self) -> Training:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self


class Machine(Section):
    """Where it runs. Not part of what defines a run."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What to compute on; `auto` takes a GPU if there is one."""
    devices: Count = 1
    """How many of them."""
    workers: AutoOrIndex = "auto"
    """Processes that read images, where a set does not fit in memory."""
    threads: Count | None = None
    """Processor threads of each process; torch decides if not given."""
