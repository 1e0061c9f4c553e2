"""From a recipe's objective to its terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vitrellis.errors import UsageError
from vitrellis.models import block_channels, has_distillation_head, num_blocks
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
    PooledFeatures,
    Softmax,
    Term,
    effective_number_weights,
)
from vitrellis.objectives.weights import Adaptive, Constant, OffAfter, Ramp, WeightSchedule
from vitrellis.recipe import AdaptiveWeight, OffAfterWeight, RampWeight, Weight
from vitrellis.recipe.objective import CrossEntropy as LabelSettings
from vitrellis.recipe.objective import DeferredSection, Locality, ObjectiveSection
from vitrellis.training.exported import Preprocessing
from vitrellis.training.guided import Teacher

AUTO_FACTOR = 5
"""How unequal classes must be for `loss: auto` to balance them: largest over smallest.

Then it is balanced softmax (https://arxiv.org/abs/2007.10740): it has no setting, needs no second
phase, is plain cross-entropy where classes are equal, and in its paper beats re-weighting. The 5 is
a judgement: for milder tails we keep what others compare with.
"""


def build_objective(
    settings: ObjectiveSection,
    student: nn.Module,
    preprocessing: Preprocessing,
    teacher: Teacher | None,
    *,
    class_counts: Tensor,
    deferred: DeferredSection | None = None,
    epochs: int,
) -> Objective:
    """All the terms of a recipe, and how they add up.

    Args:
        settings: What the recipe says of the terms.
        student: Whose maps are tapped.
        preprocessing: What the student is shown.
        teacher: None where no term needs one.
        class_counts: `(K,)` training images of each class.
        deferred: What changes in the last phase; None for nothing.
        epochs: Of the run.

    Raises:
        UsageError: If the student has a distillation head that no term trains, or a class has no
            image where its rarity matters.
    """
    labels, hard = settings.cross_entropy, settings.hard
    phases: dict[str, Deferred] = {}
    if deferred is not None:
        phases = _phases(deferred, deferred.first_epoch(epochs), class_counts)
    label_term = CrossEntropy(
        weight=build_weight(labels.weight),
        label_smoothing=labels.label_smoothing,
        loss=_label_loss(labels, class_counts),
        deferred=phases.get("class"),
    )
    logit_terms = _logit_terms(settings)
    if hard is not None:
        weight, phase = build_weight(hard.weight), phases.get("distillation")
        logit_terms.append(HardDistillation(weight=weight, head=hard.head, deferred=phase))
    _check_heads(student, logit_terms)
    terms: list[Term] = [label_term]
    if teacher is not None:
        terms += _map_terms(settings, _Taps(student, preprocessing, teacher))
    return Objective([*terms, *logit_terms])


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


def resolved_loss(settings: LabelSettings, class_counts: Tensor) -> str:
    """The loss that learns the labels, `auto` resolved by how unequal the classes are."""
    if settings.loss != "auto":
        return settings.loss
    unequal = int(class_counts.max()) >= AUTO_FACTOR * int(class_counts.min())
    return "balanced_softmax" if unequal else "softmax"


def _label_loss(settings: LabelSettings, class_counts: Tensor) -> LabelLoss:
    losses: dict[str, Callable[[], LabelLoss]] = {
        "softmax": Softmax,
        "balanced_softmax": lambda: LogitAdjustment(class_counts),
        "logit_adjustment": lambda: LogitAdjustment(class_counts, tau=settings.tau),
        "ldam": lambda: LDAM(class_counts, margin=settings.margin, scale=settings.scale),
        "focal": lambda: Focal(gamma=settings.gamma),
    }
    return losses[resolved_loss(settings, class_counts)]()


def _logit_terms(settings: ObjectiveSection) -> list[LogitTerm]:
    """Keys of a section are the arguments of its term."""
    terms: list[LogitTerm] = []
    for section, kind in (
        (settings.kd, KD),
        (settings.dkd, DKD),
        (settings.mlkd, MLKD),
        (settings.ctkd, CTKD),
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
