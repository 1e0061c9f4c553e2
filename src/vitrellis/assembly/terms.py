"""From a recipe's objective to its terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vitrellis.errors import UsageError
from vitrellis.models import block_channels, forward_with_maps, has_distillation_head, num_blocks
from vitrellis.objectives import (
    CTKD,
    DKD,
    KD,
    LDAM,
    MLKD,
    CrossEntropy,
    Deferred,
    Focal,
    HardDistillation,
    LabelLoss,
    LocalityGuidance,
    LogitAdjustment,
    LogitTerm,
    Objective,
    PaCo,
    PooledFeatures,
    Softmax,
    Term,
    effective_number_weights,
)
from vitrellis.objectives.schedules import Adaptive, Constant, OffAfter, Ramp, WeightSchedule
from vitrellis.recipe import AdaptiveWeight, OffAfterWeight, RampWeight, Recipe, Weight
from vitrellis.recipe.loss_sections import (
    AttentionTransfer,
    CrossEntropySection,
    DeferredSection,
    Features,
    Hard,
    Locality,
    PaCoSection,
)
from vitrellis.runs.exported import Preprocessing
from vitrellis.teachers.teacher import Teacher
from vitrellis.teachers.teachers import Teachers


def build_objective(
    recipe: Recipe,
    student: nn.Module,
    preprocessing: Preprocessing,
    teachers: Teachers,
    *,
    class_counts: Tensor,
    own_terms: Sequence[Term] = (),
) -> Objective:
    """All the terms of a recipe, and how they add up.

    With several teachers, each term is there once for each of them.

    Args:
        recipe: Its objective.
        student: Whose maps are compared.
        preprocessing: Of its images.
        teachers: Its teachers.
        class_counts: `(K,)` training images of each class.
        own_terms: Further terms, from Python.

    Raises:
        UsageError: If the student has a distillation head that no term trains, or a class has no
            image where its rarity matters.
    """
    settings, deferred = recipe.objective, recipe.deferred
    labels = settings.cross_entropy
    phases: dict[str, Deferred] = {}
    if deferred is not None:
        first_epoch = deferred.first_epoch(recipe.training.epochs)
        phases = _phases(deferred, first_epoch, class_counts)
    label_term = CrossEntropy(
        weight=build_weight(labels.weight),
        label_smoothing=labels.label_smoothing,
        loss=_label_loss(labels, class_counts),
        deferred=phases.get("class"),
    )
    own: list[Term] = []
    if settings.paco is not None:
        own.append(_paco(settings.paco, student, preprocessing, class_counts))
    for name, teacher in teachers.items():
        context = _Context(student, preprocessing, teacher, phases.get("distillation"))
        for key in settings.guided_by:
            share = recipe.teachers_of(key).get(name)
            if share is None:
                continue
            section = getattr(settings, key)
            own_name = key if recipe.teacher is not None else f"{key}_{name}"
            term = _TERMS[key](section, context, own_name, build_weight(section.weight, share))
            term.teacher = name
            own.append(term)
    terms = [label_term, *own, *own_terms]
    _check_heads(student, terms)
    return Objective(terms)


def _phases(
    settings: DeferredSection, first_epoch: int, class_counts: Tensor
) -> dict[str, Deferred]:
    """What changes in the last phase, for the term of the labels and for that of hard ones."""

    def weights(head: str) -> Tensor | None:
        if settings.reweight not in (head, "both"):
            return None
        return effective_number_weights(class_counts, beta=settings.beta)

    return {
        "class": Deferred(
            first_epoch, class_weights=weights("class"), smoothing=settings.smoothing
        ),
        "distillation": Deferred(first_epoch, class_weights=weights("distillation")),
    }


def _label_loss(settings: CrossEntropySection, class_counts: Tensor) -> LabelLoss:
    losses: dict[str, Callable[[], LabelLoss]] = {
        "softmax": Softmax,
        "balanced_softmax": lambda: LogitAdjustment(class_counts),
        "logit_adjustment": lambda: LogitAdjustment(class_counts, tau=settings.tau),
        "ldam": lambda: LDAM(class_counts, margin=settings.margin, scale=settings.scale),
        "focal": lambda: Focal(gamma=settings.gamma),
    }
    return losses[settings.loss]()


def _paco(
    settings: PaCoSection, student: nn.Module, preprocessing: Preprocessing, class_counts: Tensor
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


def _check_heads(student: nn.Module, terms: Sequence[Term]) -> None:
    taught_heads = [term.head for term in terms if isinstance(term, LogitTerm)]
    if has_distillation_head(student) and "distillation" not in taught_heads:
        raise UsageError(
            "objective: the student has a distillation head, which takes part in its predictions, "
            "but no term trains it. Give a term of logits (kd, dkd, mlkd, ctkd, hard) "
            "head=distillation, or take a model without one"
        )


@dataclass(frozen=True)
class _Context:
    """Whose maps are compared, and what changes for hard labels in the last phase."""

    student: nn.Module
    preprocessing: Preprocessing
    teacher: Teacher
    hard_phase: Deferred | None

    def paired(
        self, student_blocks: Sequence[int], teacher_blocks: Sequence[int]
    ) -> dict[str, Any]:
        """Blocks and their channels, by the names of a term's arguments."""
        shown, teacher = self.preprocessing, self.teacher
        return {
            "student_blocks": student_blocks,
            "teacher_blocks": teacher_blocks,
            "student_channels": block_channels(
                self.student, student_blocks, shown.channels, shown.img_size
            ),
            "teacher_channels": block_channels(
                teacher.model, teacher_blocks, teacher.channels, teacher.img_size
            ),
        }


def _logit_term(kind: Callable[..., LogitTerm]) -> _Builder:
    """Keys of a section are the arguments of its term."""

    def build(section: Any, context: _Context, name: str, weight: WeightSchedule) -> Term:
        del context
        return kind(name=name, weight=weight, **section.model_dump(exclude={"weight"}))

    return build


def _hard(section: Hard, context: _Context, name: str, weight: WeightSchedule) -> Term:
    return HardDistillation(
        name=name, weight=weight, head=section.head, deferred=context.hard_phase
    )


def _locality(section: Locality, context: _Context, name: str, weight: WeightSchedule) -> Term:
    learned = isinstance(section.student_blocks, str)
    blocks = range(num_blocks(context.student)) if learned else section.student_blocks
    return LocalityGuidance(
        name=name,
        weight=weight,
        transform=section.transform,
        learned=learned,
        **context.paired([int(block) for block in blocks], section.teacher_blocks),
    )


def _features(section: Features, context: _Context, name: str, weight: WeightSchedule) -> Term:
    paired = context.paired(section.student_blocks, section.teacher_blocks)
    return PooledFeatures(name=name, weight=weight, distance=section.distance, **paired)


def _attention_transfer(
    section: AttentionTransfer, context: _Context, name: str, weight: WeightSchedule
) -> Term:
    paired = context.paired(section.student_blocks, section.teacher_blocks)
    return LocalityGuidance(name=name, weight=weight, transform="attention", **paired)


_Builder = Callable[[Any, _Context, str, WeightSchedule], Term]
_TERMS: dict[str, _Builder] = {
    "locality": _locality,
    "kd": _logit_term(KD),
    "dkd": _logit_term(DKD),
    "mlkd": _logit_term(MLKD),
    "ctkd": _logit_term(CTKD),
    "hard": _hard,
    "features": _features,
    "attention_transfer": _attention_transfer,
}
"""A term from its section, whose maps it compares, its name and its weight."""


def build_weight(weight: Weight, factor: float = 1.0) -> WeightSchedule:
    """A recipe's weight as a schedule over epochs.

    Args:
        weight: As written.
        factor: What it is multiplied by.
    """
    if isinstance(weight, RampWeight):
        to = weight.to * factor
        return Ramp(weight.value * factor, to=to, epochs=weight.epochs, shape=weight.shape)
    if isinstance(weight, OffAfterWeight):
        return OffAfter(weight.value * factor, epoch=weight.off_after)
    if isinstance(weight, AdaptiveWeight):
        return Adaptive(
            weight.value * factor,
            window=weight.window,
            threshold=weight.threshold,
            min_epoch=weight.min_epoch,
            relative=weight.relative,
        )
    return Constant(weight * factor)
