"""The sections of a recipe on images, models, optimisation and the machine, one class each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vitrellis.data.augmentation.steps import amount
from vitrellis.data.augmentation.view import View
from vitrellis.data.sources import SOURCES, described_arguments
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
    """The folder of the dataset; a relative path starts in the current folder. Only datasets in
    packages need none."""
    args: Arguments = Field(
        default_factory=dict,
        description=f"Further settings of the source: {described_arguments()}.",
    )
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
    """The number of image channels; that of the source if not given."""
    normalization: Annotated[
        Annotated[Literal["imagenet", "cifar", "measured"], Tag("(or a mapping with mean and std)")]
        | Annotated[ChannelStatistics, Tag("(ChannelStatistics)")],
        Discriminator(_normalization_tag),
    ] = "measured"
    """The mean and standard deviation that images are normalised by: those of ImageNet or CIFAR,
    those measured on the training images, or numbers: `{mean, std}`."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How images are resized in evaluation; `augmentation.interpolation` if not given."""
    crop_pct: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """The share of a resized image's side that evaluation cuts out, in timm's sense: with 0.875 and
    224 pixels, images are resized to 256 pixels, and the middle 224 are cut out."""
    fit: Literal["squash", "crop"] = "squash"
    """How images of another shape are made to fit: by squashing, or by cropping the centre."""
    crop_mode: Literal["squash", "center", "border"] | None = None
    """How images of another shape are made to fit in evaluation, by timm's names; as `fit` says if
    not given. `border` keeps the whole image, and adds a border of the mean colour."""
    canvas: Size | None = None
    """The size in pixels at which training images are stored before augmentation; chosen from the
    data if not given."""
    cache: Literal["auto", True, False] = "auto"
    """Whether all images are held on the training device; `auto` if they fit."""


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


class Model(Section):
    """The student: any model that timm or Vitrellis registers."""

    name: str
    """The name of the model; `vitrellis models --all` lists them."""
    pretrained: bool = False
    """Whether to start from timm's published weights (downloaded once)."""
    weights: File | None = None
    """A file of weights to start from."""
    weights_img_size: Size | None = None
    """The size in pixels of the images that the position embeddings in `weights`, or in an imported
    checkpoint, were made for: one number, or `[height, width]`. If not given, it is that in the
    `config.json` beside the file; without one, they were square."""
    zero_head: bool = False
    """Whether the classifier starts at exactly zero, as in the published DeiT runs; not for
    distillation."""
    distillation_head: bool = False
    """Whether to add a second classifier, which learns from the teacher alone; the predictions of
    both are averaged. Models with a distillation token (`*_distilled_*`) have one already."""
    args: Arguments = Field(default_factory=dict)
    """Further arguments of the model, such as `drop_path_rate`. Any model takes `norm_eps`,
    `class_token_std`, `normalize_features` and `stride_1x1`, too (docs/models)."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All settings of the architecture besides the name."""
        return self.args | ({"distillation_head": True} if self.distillation_head else {})


def _over_epochs_tag(value: object) -> str:
    return "(list)" if isinstance(value, list | tuple) else "(number)"


class SAM(Section):
    """Sharpness-aware minimization: the gradient is computed where the loss is worst nearby.

    It finds flat minima. Source: Foret et al., ICLR 2021, arXiv 2010.01412.
    """

    rho: Annotated[
        Annotated[NonNegative, Tag("(number)")]
        | Annotated[
            Annotated[tuple[tuple[Index, NonNegative], ...], Field(min_length=1)], Tag("(list)")
        ],
        Discriminator(_over_epochs_tag),
    ] = 0.05
    """The radius within which the worst loss is sought: a number, or pairs of an epoch and the
    value from then on, such as `[[0, 0.05], [10, 0.1]]`. While it is 0, steps are plain ones and
    cost no more; otherwise they take twice as long."""

    @model_validator(mode="after")
    def _check_epochs_rise(self) -> SAM:
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
    """How the weights are updated."""

    name: Literal["adamw", "sgd"] = "adamw"
    """The optimizer."""
    lr: Positive = 1e-3
    """The learning rate after the warm-up."""
    lr_per_batch: Count | None = None
    """The batch size that `lr` is for. If given, `lr` is scaled in proportion to the real batch
    size."""
    weight_decay: NonNegative = 0.05
    """The weight decay, from which biases, one-dimensional parameters, tokens and position
    embeddings are exempt, unless `decay_all` is true."""
    decay_all: bool = False
    """Whether all parameters decay, biases and norms too, as in published code for long tails."""
    betas: tuple[ProperFraction, ProperFraction] = (0.9, 0.999)
    """AdamW's beta1 and beta2."""
    momentum: ProperFraction = 0.9
    """SGD's momentum."""
    nesterov: bool = True
    """Whether SGD uses Nesterov momentum."""
    head_lr_ratio: Positive = 1.0
    """The classifier's learning rate, as a multiple of the others'."""
    sam: SAM | None = None
    """Sharpness-aware minimization."""


class Schedule(Section):
    """How the learning rate changes during training."""

    name: Literal["cosine", "constant", "step"] = "cosine"
    """The course of the learning rate after the warm-up: half a cosine wave down to `min_lr`, no
    change, or steps at `milestones` by `factors`."""
    warmup_epochs: NonNegative = 0.0
    """The number of epochs in which the learning rate rises linearly at the beginning; 5 to 20 are
    usual for transformers."""
    warmup_factor: Fraction = 0.001
    """The warm-up begins at this multiple of the learning rate."""
    min_lr: NonNegative = 0.0
    """The learning rate at which the cosine ends."""
    per: Literal["step", "epoch"] = "step"
    """Whether the learning rate changes with every step or with every epoch."""
    shift_cosine: bool = True
    """Whether the cosine begins after the warm-up; published recipes count it from the very first
    epoch."""
    milestones: tuple[Count, ...] = ()
    """For `step`: the numbers of epochs after which the learning rate changes."""
    factors: tuple[Positive, ...] = ()
    """For `step`: the factor that `lr` is multiplied by from each milestone on."""

    @model_validator(mode="after")
    def _check_steps(self) -> Schedule:
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
    """The length of training, the batches, the precision and the choice of the best epoch."""

    epochs: Count
    """The number of passes over the training images."""
    batch_size: Count = 64
    """Images per optimizer step, over all devices and accumulated parts together."""
    accumulate: Count = 1
    """The number of parts that a batch is computed in (gradient accumulation), to save memory."""
    clip_grad: Positive | None = None
    """The largest norm of the gradient (gradient clipping); not limited if not given."""
    drop_last: bool = True
    """Whether an epoch's last batch is left out if it is not full."""
    ema: ProperFraction | None = None
    """The decay of a moving average of the weights (EMA), which is then evaluated in place of the
    weights; no average if not given. The weights themselves are kept beside it: `--without-ema`."""
    ema_warmup: bool = True
    """Whether the decay of the average rises with the steps, up to `ema`, as
    1 - (1 + step)^(-2/3) (timm's warm-up). If not, it is `ema` from the first step on, and a short
    run leaves much of the initial weights in the average."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """The precision of the arithmetic: full, or mixed with bfloat16 or float16."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """The precision inside of matrix products of float32, as in
    `torch.set_float32_matmul_precision`: `high` lets NVIDIA GPUs use TF32, which is several times
    faster and keeps 10 bits of the mantissa instead of 23; `medium` lets them use bfloat16. It
    reaches the teachers in training, and no evaluation by other commands. Convolutions use TF32 on
    these GPUs in any case, which is PyTorch's default."""
    sync_batchnorm: bool = False
    """Whether batch norms take their statistics over all devices, not over each device's part of
    the batch. It needs GPUs; on one device there is nothing to synchronise. With `accumulate`, each
    part of the batch still has statistics of its own."""
    compile: bool = False
    """Whether to compile the models, which makes steps faster after a slow start."""
    channels_last: bool = False
    """Whether to use the memory layout that suits convolutions on GPUs."""
    checkpoint_minutes: NonNegative = 2.0
    """The least time in minutes between two checkpoints that the run can be resumed from."""
    eval_every: Count = 1
    """The number of epochs between validations; the last epoch is always validated."""
    select_by: Literal["top1", "balanced_accuracy"] = "top1"
    """The validation figure that the best epoch is chosen by (model selection); the second is for
    unbalanced classes."""

    @model_validator(mode="after")
    def _check_batch_divides(self) -> Training:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self


class Machine(Section):
    """The hardware that the run uses. It is not part of the run's identity."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The kind of device; `auto` takes a GPU if there is one."""
    devices: Count = 1
    """The number of devices."""
    workers: AutoOrIndex = "auto"
    """The number of processes that read images, if the dataset does not fit in memory."""
    threads: Count | None = None
    """The number of processor threads of each process; torch decides if not given."""
