"""From a recipe's objective to its terms."""

from __future__ import annotations

from torch import nn

from vitrellis.models import block_channels, num_blocks
from vitrellis.objectives import CrossEntropy, Distillation, LocalityGuidance, Objective, Term
from vitrellis.objectives.weights import Adaptive, Constant, OffAfter, Ramp, WeightSchedule
from vitrellis.recipe import AdaptiveWeight, OffAfterWeight, RampWeight, Weight
from vitrellis.recipe.objective import ObjectiveSection
from vitrellis.training.exported import Preprocessing
from vitrellis.training.guided import Teacher


def build_objective(
    settings: ObjectiveSection,
    student: nn.Module,
    preprocessing: Preprocessing,
    teacher: Teacher | None,
) -> Objective:
    """All the terms of a recipe, and how they add up."""
    terms: list[Term] = [
        CrossEntropy(
            weight=build_weight(settings.cross_entropy.weight),
            label_smoothing=settings.cross_entropy.label_smoothing,
        )
    ]
    if settings.locality is not None:
        assert teacher is not None
        locality = settings.locality
        learned = locality.student_blocks == "learned"
        student_blocks = (
            list(range(num_blocks(student)))
            if isinstance(locality.student_blocks, str)
            else list(locality.student_blocks)
        )
        terms.append(
            LocalityGuidance(
                weight=build_weight(locality.weight),
                transform=locality.transform,
                student_blocks=student_blocks,
                teacher_blocks=list(locality.teacher_blocks),
                learned=learned,
                student_channels=block_channels(
                    student, student_blocks, preprocessing.channels, preprocessing.img_size
                ),
                teacher_channels=block_channels(
                    teacher.model, locality.teacher_blocks, teacher.channels, teacher.img_size
                ),
            )
        )
    if settings.distillation is not None:
        distillation = settings.distillation
        terms.append(
            Distillation(
                weight=build_weight(distillation.weight),
                kind=distillation.kind,
                temperature=distillation.temperature,
                standardize=distillation.standardize,
                reduction=distillation.reduction,
                head=distillation.head,
            )
        )
    return Objective(terms)


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
