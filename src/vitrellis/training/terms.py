"""From a recipe's objective to its terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vitrellis.errors import UsageError
from vitrellis.models import block_channels, forward_with_maps, has_distillation_head, num_blocks
from vitrellis.objectives import (
    CTKD,
    DKD,
    KD,
    MLKD,
    CrossEntropy,
    HardDistillation,
    LocalityGuidance,
    LogitTerm,
    Objective,
    PaCo,
    PooledFeatures,
    Term,
)
from vitrellis.objectives.weights import Adaptive, Constant, OffAfter, Ramp, WeightSchedule
from vitrellis.recipe import AdaptiveWeight, OffAfterWeight, RampWeight, Weight
from vitrellis.recipe.objective import Locality, ObjectiveSection
from vitrellis.recipe.objective import PaCo as PaCoSettings
from vitrellis.training.exported import Preprocessing
from vitrellis.training.guided import Teacher


def build_objective(
    settings: ObjectiveSection,
    student: nn.Module,
    preprocessing: Preprocessing,
    teacher: Teacher | None,
    *,
    class_counts: Tensor,
) -> Objective:
    """All the terms of a recipe, and how they add up.

    Raises:
        UsageError: If the student has a distillation head that no term trains.
    """
    label_term = CrossEntropy(
        weight=build_weight(settings.cross_entropy.weight),
        label_smoothing=settings.cross_entropy.label_smoothing,
    )
    logit_terms = _logit_terms(settings)
    _check_heads(student, logit_terms)
    terms: list[Term] = [label_term]
    if settings.paco is not None:
        terms.append(_paco(settings.paco, student, preprocessing, class_counts))
    if teacher is not None:
        terms += _map_terms(settings, _Taps(student, preprocessing, teacher))
    return Objective([*terms, *logit_terms])


def _paco(
    settings: PaCoSettings, student: nn.Module, preprocessing: Preprocessing, class_counts: Tensor
) -> PaCo:
    block = num_blocks(student) - 1
    (channels,) = block_channels(student, [block], preprocessing.channels, preprocessing.img_size)
    return PaCo(
        student=student,
        block=block,
        channels=channels,
        class_counts=class_counts,
        maps_of=forward_with_maps,
        weight=build_weight(settings.weight),
        **settings.model_dump(exclude={"weight"}),
    )


def _logit_terms(settings: ObjectiveSection) -> list[LogitTerm]:
    """Keys of a section are the arguments of its term."""
    terms: list[LogitTerm] = []
    for section, kind in (
        (settings.kd, KD),
        (settings.dkd, DKD),
        (settings.mlkd, MLKD),
        (settings.ctkd, CTKD),
        (settings.hard, HardDistillation),
    ):
        if section is not None:
            own = section.model_dump(exclude={"weight"})
            terms.append(kind(weight=build_weight(section.weight), **own))
    return terms


def _check_heads(student: nn.Module, terms: list[LogitTerm]) -> None:
    if has_distillation_head(student) and not any(term.head == "distillation" for term in terms):
        raise UsageError(
            "objective: the student has a distillation head, which takes part in its predictions, "
            "but no term trains it. Give a term of logits (kd, dkd, mlkd, ctkd, hard) "
            "head=distillation, or take a model without one"
        )


@dataclass(frozen=True)
class _Taps:
    """Whose maps are compared."""

    student: nn.Module
    preprocessing: Preprocessing
    teacher: Teacher

    def widths(
        self, student_blocks: Sequence[int], teacher_blocks: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Channels of these blocks of student and teacher."""
        shown = self.preprocessing
        mine = block_channels(self.student, student_blocks, shown.channels, shown.img_size)
        teacher = self.teacher
        theirs = block_channels(teacher.model, teacher_blocks, teacher.channels, teacher.img_size)
        return mine, theirs


def _map_terms(settings: ObjectiveSection, taps: _Taps) -> list[Term]:
    terms: list[Term] = []
    if settings.locality is not None:
        terms.append(_locality(settings.locality, taps))
    features, transfer = settings.features, settings.attention_transfer
    if features is not None:
        mine, theirs = taps.widths(features.student_blocks, features.teacher_blocks)
        terms.append(
            PooledFeatures(
                weight=build_weight(features.weight),
                student_blocks=features.student_blocks,
                teacher_blocks=features.teacher_blocks,
                student_channels=mine,
                teacher_channels=theirs,
                distance=features.distance,
            )
        )
    if transfer is not None:
        mine, theirs = taps.widths(transfer.student_blocks, transfer.teacher_blocks)
        terms.append(
            LocalityGuidance(
                name="attention_transfer",
                weight=build_weight(transfer.weight),
                transform="attention",
                student_blocks=transfer.student_blocks,
                teacher_blocks=transfer.teacher_blocks,
                student_channels=mine,
                teacher_channels=theirs,
            )
        )
    return terms


def _locality(settings: Locality, taps: _Taps) -> LocalityGuidance:
    learned = isinstance(settings.student_blocks, str)
    blocks = range(num_blocks(taps.student)) if learned else settings.student_blocks
    student_blocks = [int(block) for block in blocks]
    mine, theirs = taps.widths(student_blocks, settings.teacher_blocks)
    return LocalityGuidance(
        weight=build_weight(settings.weight),
        transform=settings.transform,
        student_blocks=student_blocks,
        teacher_blocks=settings.teacher_blocks,
        learned=learned,
        student_channels=mine,
        teacher_channels=theirs,
    )


def build_weight(weight: Weight) -> WeightSchedule:
    """A recipe's weight as a schedule over epochs."""
    if isinstance(weight, RampWeight):
        return Ramp(weight.value, to=weight.to, epochs=weight.epochs, shape=weight.shape)
    if isinstance(weight, OffAfterWeight):
        return OffAfter(weight.value, epoch=weight.off_after)
    if isinstance(weight, AdaptiveWeight):
        return Adaptive(
            weight.value,
            window=weight.window,
            threshold=weight.threshold,
            min_epoch=weight.min_epoch,
            relative=weight.relative,
        )
    return Constant(weight)
