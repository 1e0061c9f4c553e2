"""What a recipe says about its objective: the terms, and their weights over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vitrellis.settings import (
    Count,
    Index,
    NonNegative,
    Number,
    Positive,
    ProperFraction,
    Section,
)


class RampWeight(Section):
    """A weight that moves from one value to another, and stays there."""

    value: NonNegative
    """The weight in the first epoch."""
    to: NonNegative
    """The weight after `epochs` epochs, and from then on."""
    epochs: Count
    """How many epochs it takes."""
    shape: Literal["linear", "cosine"] = "linear"
    """How it gets there."""


class OffAfterWeight(Section):
    """A weight that is dropped to zero at a fixed time."""

    value: NonNegative
    """The weight until then."""
    off_after: Count
    """Number of epochs with the term; from then on its weight is zero."""


class AdaptiveWeight(Section):
    """A weight that is dropped to zero for good once the term's loss stops falling.

    Source: Rostand et al., adaptive locality guidance, doi 10.1109/TNNLS.2024.3515076.
    """

    value: NonNegative
    """The weight until then."""
    adaptive: Literal[True]
    """Says which kind of weight this is."""
    window: Count = 50
    """Epochs over which the slope of the loss is measured and smoothed."""
    threshold: Number = -0.02
    """The term ends after the first epoch whose smoothed slope, per epoch, is at least this."""
    min_epoch: Index = 20
    """Never end it before this many epochs are done."""
    relative: bool = False
    """Whether the threshold is a fraction of the loss, and not in units of the loss."""


def _weight_tag(value: object) -> str | None:
    if isinstance(value, Section):
        return f"({type(value).__name__})"
    if not isinstance(value, Mapping):
        return "(number)"
    if value.get("adaptive") is not None:
        return "(AdaptiveWeight)"
    if value.get("off_after") is not None:
        return "(OffAfterWeight)"
    if value.get("to") is not None or value.get("epochs") is not None:
        return "(RampWeight)"
    return None


Weight = Annotated[
    Annotated[NonNegative, Tag("(number)")]
    | Annotated[RampWeight, Tag("(RampWeight)")]
    | Annotated[OffAfterWeight, Tag("(OffAfterWeight)")]
    | Annotated[AdaptiveWeight, Tag("(AdaptiveWeight)")],
    Discriminator(
        _weight_tag,
        custom_error_type="weight",
        custom_error_message=(
            "not a weight; it would be a number, or one of [value, to, epochs, shape], "
            "[value, off_after], [value, adaptive: true, window, threshold, min_epoch, relative]"
        ),
    ),
]
"""How much a term counts: a number, or a schedule over epochs."""


class CrossEntropySection(Section):
    """Learning from the labels."""

    weight: Weight = 1.0
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    label_smoothing: ProperFraction = 0.0
    """Probability mass that is spread evenly over all classes."""
    loss: Literal["softmax", "balanced_softmax", "logit_adjustment", "ldam", "focal"] = "softmax"
    """Plain cross-entropy, or one for long tails: balanced softmax (arXiv 2007.10740), logit
    adjustment (2007.07314), LDAM (1906.07413), focal loss (1708.02002)."""
    tau: NonNegative = 1.0
    """Of `logit_adjustment`: how far frequencies are made up for; 1 is balanced softmax."""
    gamma: NonNegative = 2.0
    """Of `focal`: 0 is plain cross-entropy."""
    margin: NonNegative = 0.5
    """Of `ldam`: the margin of the rarest class."""
    scale: Positive = 30.0
    """Of `ldam`: logits, best cosines (`model.args: {cosine: true}`), are multiplied by it."""

    @model_validator(mode="after")
    def _has_its_settings(self) -> CrossEntropySection:
        settings = {"tau": "logit_adjustment", "gamma": "focal", "margin": "ldam", "scale": "ldam"}
        for key, loss in settings.items():
            if self.loss != loss and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is for loss: {loss}, and the loss here is {self.loss}")
        return self


def _blocks_tag(value: object) -> str:
    return "(or a list of block indices)" if isinstance(value, str) else "(list)"


Blocks = Annotated[tuple[Index, ...], Field(min_length=1)]
"""Indices of blocks, 0-based, counted through all stages."""


def _check_pairs(student_blocks: tuple[int, ...], teacher_blocks: tuple[int, ...]) -> None:
    if len(student_blocks) != len(teacher_blocks):
        raise ValueError(
            f"student_blocks {list(student_blocks)} and teacher_blocks {list(teacher_blocks)} are "
            "compared in pairs, so both must be of one length"
        )


class Locality(Section):
    """Imitating a convolutional teacher's feature maps (Li et al., ECCV 2022, arXiv 2207.10026)."""

    weight: Weight = 2.5
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    transform: Literal["linear", "attention", "similarity"] = "linear"
    """What is compared: maps after a learned 1x1 convolution, attention maps, or similarities."""
    teacher_blocks: Blocks = (0, 1, 2)
    """Blocks of the teacher to imitate; for the CIFAR ResNets a block is a stage."""
    student_blocks: Annotated[
        Annotated[Literal["learned"], Tag("(or a list of block indices)")]
        | Annotated[Blocks, Tag("(list)")],
        Discriminator(_blocks_tag),
    ]
    """Blocks of the student, one for each of the teacher's, or `learned`: a mixture of all."""

    @model_validator(mode="after")
    def _pairs_up(self) -> Locality:
        if not isinstance(self.student_blocks, str):
            _check_pairs(self.student_blocks, self.teacher_blocks)
        return self


class LogitSection(Section):
    """What all terms that compare logits have in common."""

    weight: Weight = 1.0
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    standardize: bool = True
    """Z-score both sides' logits first (LSKD: Sun et al., CVPR 2024, arXiv 2403.01427)."""
    sigma: Literal["sample", "population"] = "sample"
    """Which deviation: with K - 1 classes, as published code runs, or K, as the paper writes."""
    head: Literal["class", "distillation"] = "class"
    """Which of the student's heads learns from the teacher; for the second see
    `model.distillation_head`."""


class KDSection(LogitSection):
    """Imitating the teacher's probabilities (Hinton et al., arXiv 1503.02531)."""

    temperature: Positive = 2.0
    """Softens both sides' probabilities (tau)."""
    reduction: Literal["batch", "batch_and_classes"] = "batch"
    """Mean over the batch, as in LSKD's code, or over batch and classes, K times smaller."""


class DKDSection(LogitSection):
    """Decoupled distillation: the label, and the other classes (Zhao et al., arXiv 2203.08679)."""

    alpha: NonNegative = 1.0
    """Weight of how sure the teacher is of the label."""
    beta: NonNegative = 8.0
    """Weight of what it thinks of the other classes."""
    temperature: Positive = 4.0
    """Softens both sides' probabilities."""


class MLKDSection(LogitSection):
    """Imitating single predictions, and how images and classes are alike in them.

    Source: Jin et al., Multi-level Logit Distillation, CVPR 2023.
    """

    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4.0, 3.0, 5.0, 2.0, 6.0)
    """All that predictions are softened by; with `form: code`, the first is the base."""
    form: Literal["paper", "code"] = "paper"
    """The three levels as the paper writes them, or as the published code scales them."""


class CTKDSection(LogitSection):
    """Distillation at a learned temperature (Li et al., AAAI 2023, arXiv 2211.16231)."""

    lowest: Positive = 1.0
    """The lowest temperature (t_start)."""
    span: Positive = 20.0
    """From the lowest to the highest (t_end)."""
    epochs: Count = 10
    """Over which the temperature begins to work against the student."""


class Hard(Section):
    """Learning the teacher's favourite class as a label (DeiT, arXiv 2012.12877)."""

    weight: Weight = 1.0
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    head: Literal["class", "distillation"] = "class"
    """Which of the student's heads learns from the teacher; for the second see
    `model.distillation_head`."""


class PairedSection(Section):
    """What terms have in common that compare blocks in pairs."""

    weight: Weight = 1.0
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    teacher_blocks: Blocks
    """Blocks of the teacher to imitate; for the CIFAR ResNets a block is a stage."""
    student_blocks: Blocks
    """Blocks of the student, one for each of the teacher's."""

    @model_validator(mode="after")
    def _pairs_up(self) -> PairedSection:
        _check_pairs(self.student_blocks, self.teacher_blocks)
        return self


class Features(PairedSection):
    """Imitating the teacher's features, averaged over the image (feature distillation)."""

    distance: Literal["squared", "cosine"] = "squared"
    """Mean squared error, or one minus the cosine of the angle."""


class AttentionTransfer(PairedSection):
    """Imitating where the teacher's maps are active (Zagoruyko, Komodakis, arXiv 1612.03928)."""

    weight: Weight = 1000.0
    """How much the term counts: a number, or a schedule over epochs. The compared maps are of
    length one, so that values are small."""


class PaCoSection(Section):
    """Drawing images to their class and to each other (Cui et al., ICCV 2021, arXiv 2107.12028)."""

    weight: Weight = 1.0
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    temperature: Positive = 0.05
    """What similarities of images are divided by: 0.05 for CIFAR, 0.2 for large sets."""
    alpha: NonNegative = 0.01
    """Weight of each other image of the class: 0.01 for CIFAR, 0.05 for large sets."""
    beta: Positive = 1.0
    """Weight of the class itself."""
    gamma: NonNegative = 1.0
    """How much other images count beside the classes."""
    dimension: Count = 32
    """Numbers by which images are compared: 32 for CIFAR, 128 for large sets."""
    queue: Count = 1024
    """Earlier images to compare with: 1024 for CIFAR, 8192 for large sets."""
    momentum: ProperFraction = 0.999
    """How slowly the copy of the student changes that earlier images are seen by."""


class DeferredSection(Section):
    """A last phase, in which classes count the same: deferred re-weighting (DRW).

    Sources: Cao et al., arXiv 1906.07413, who re-weight what is learned from labels; DeiT-LT,
    arXiv 2404.02900, which re-weights what the distillation head learns, and mixes no images.
    """

    after_epochs: Index | None = None
    """Epochs before the phase begins."""
    share: ProperFraction | None = None
    """The same as a share of `training.epochs`; 0.8 if neither is given."""
    reweight: Literal["class", "distillation", "both", "none"] = "class"
    """What is re-weighted by the class: `objective.cross_entropy` by the label, `objective.hard` by
    what the teacher takes the image for, or both."""
    beta: ProperFraction = 0.9999
    """A class of n images weighs `(1 - beta) / (1 - beta^n)` (Cui et al., arXiv 1901.05555)."""
    mixing: bool = False
    """Whether images are still mixed (`augmentation.mixup`, `augmentation.cutmix`)."""
    smoothing: bool = False
    """Whether labels are still smoothed (`objective.cross_entropy.label_smoothing`)."""

    @model_validator(mode="after")
    def _begins_once(self) -> DeferredSection:
        if self.after_epochs is not None and self.share is not None:
            raise ValueError("after_epochs and share both say when it begins; give one of them")
        return self

    def first_epoch(self, epochs: int) -> int:
        """The 0-based epoch in which the phase begins, in a run of so many."""
        if self.after_epochs is not None:
            return self.after_epochs
        share = self.share if self.share is not None else 0.8
        return math.floor(share * epochs + 1e-9)  # 0.7 * 10 is a little less than 7


class ObjectiveSection(Section):
    """The terms of the loss. All that are given are added, each times its weight."""

    cross_entropy: CrossEntropySection = CrossEntropySection()
    """Learning from the labels."""
    locality: Locality | None = None
    """Imitating a teacher's feature maps."""
    kd: KDSection | None = None
    """Imitating a teacher's probabilities, of standardized logits or plain ones."""
    dkd: DKDSection | None = None
    """The same, the label apart from the other classes."""
    mlkd: MLKDSection | None = None
    """The same, on three levels."""
    ctkd: CTKDSection | None = None
    """The same, at a learned temperature."""
    hard: Hard | None = None
    """Learning what a teacher takes each image for."""
    features: Features | None = None
    """Imitating a teacher's pooled features."""
    attention_transfer: AttentionTransfer | None = None
    """Imitating where a teacher's maps are active."""
    paco: PaCoSection | None = None
    """Telling classes of a long tail apart by contrast, from a second view of each image. It takes
    the place of the cross-entropy, so give `cross_entropy` the weight 0. One device only."""

    @property
    def guided_by(self) -> tuple[str, ...]:
        """Names of the terms that need a teacher."""
        return tuple(
            name
            for name in type(self).model_fields
            if name not in ("cross_entropy", "paco") and getattr(self, name) is not None
        )
