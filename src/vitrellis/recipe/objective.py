"""What a recipe says about its objective: the terms, and their weights over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vitrellis.recipe.types import (
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


class CrossEntropy(Section):
    """Learning from the labels."""

    weight: Weight = 1.0
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    label_smoothing: ProperFraction = 0.0
    """Probability mass that is spread evenly over all classes."""


def _blocks_tag(value: object) -> str:
    return "(or a list of block indices)" if isinstance(value, str) else "(list)"


Blocks = Annotated[tuple[Index, ...], Field(min_length=1)]
"""Indices of blocks, 0-based, counted through all stages."""


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
        if self.student_blocks == "learned":
            return self
        if len(self.student_blocks) != len(self.teacher_blocks):
            raise ValueError(
                f"student_blocks {list(self.student_blocks)} and teacher_blocks "
                f"{list(self.teacher_blocks)} are compared in pairs, so both must be of one length"
            )
        return self


class Distillation(Section):
    """Imitating the teacher's predictions."""

    weight: Weight = 1.0
    """How much the term counts: a number, or a schedule over epochs: `{value, to, epochs, shape}`,
    `{value, off_after}`, `{value, adaptive: true, window, threshold, min_epoch, relative}`."""
    kind: Literal["soft", "hard"] = "soft"
    """The teacher's probabilities, or only its favourite class."""
    temperature: Positive = 2.0
    """Softens both sides' probabilities (tau); for soft distillation."""
    standardize: bool = True
    """Z-score the logits first (Sun et al., CVPR 2024, arXiv 2403.01427); for soft distillation."""
    reduction: Literal["batch", "batch_and_classes"] = "batch"
    """Mean over the batch, or over batch and classes; for soft distillation."""
    head: Literal["class", "distillation"] = "class"
    """Which of the student's heads learns from the teacher; the second needs a distilled model."""


class ObjectiveSection(Section):
    """The terms of the loss. All that are given are added, each times its weight."""

    cross_entropy: CrossEntropy = CrossEntropy()
    """Learning from the labels."""
    locality: Locality | None = None
    """Imitating a teacher's feature maps."""
    distillation: Distillation | None = None
    """Imitating a teacher's predictions."""

    @property
    def guided_by(self) -> tuple[str, ...]:
        """Names of the terms that need a teacher."""
        terms = {"locality": self.locality, "distillation": self.distillation}
        return tuple(name for name, term in terms.items() if term is not None)
