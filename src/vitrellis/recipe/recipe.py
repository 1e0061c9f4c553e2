"""What a run is: one typed object that defines all of it.

`load_recipe` makes one from YAML and the command line. It is validated once,
there, and never changed afterwards. Only the code that builds a run from it receives it whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vitrellis.recipe.loss_sections import DeferredSection, ObjectiveSection
from vitrellis.recipe.sections import (
    Data,
    Input,
    Machine,
    Model,
    OptimizerSection,
    Schedule,
    Training,
)
from vitrellis.recipe.teacher_sections import NamedTeacher, TeacherSection
from vitrellis.recipe.view_sections import Augmentation
from vitrellis.settings import Index, Section


class Recipe(Section):
    """Everything that defines a run. The least there can be is `model.name`, `training.epochs`."""

    name: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")] = "run"
    """What runs of it are called, such as `demo`; by default the file's name."""
    description: str | None = None
    """One line for the list of recipes."""
    seed: Index = 0
    """Decides everything random: initial weights, order, augmentation."""
    balance: bool = False
    """For classes of unequal size: balanced softmax instead of plain cross-entropy, and the best
    epoch is the best for all classes alike. A loss or `training.select_by` that is given stays as
    it is, and so does the loss beside a sampler, re-weighting or PaCo. A teacher that is trained
    for the student follows."""
    data: Data = Data()
    """Which images."""
    input: Input = Input()
    """How images reach the model."""
    augmentation: Augmentation = Augmentation()
    """How training images are varied."""
    model: Model
    """The student."""
    teacher: TeacherSection | None = None
    """Who guides the student, if anyone does."""
    teachers: dict[str, NamedTeacher] = Field(default_factory=dict)
    """Several who do, by names of your own, in place of `teacher`; what they say adds up."""
    objective: ObjectiveSection = ObjectiveSection()
    """The terms of the loss."""
    deferred: DeferredSection | None = None
    """A last phase, in which classes count the same and images are no longer mixed."""
    optimizer: OptimizerSection = OptimizerSection()
    """How weights are changed."""
    schedule: Schedule = Schedule()
    """How the learning rate moves."""
    training: Training
    """How long, in what portions, how precisely."""
    machine: Machine = Machine()
    """Where it runs. Not part of what defines a run."""

    @model_validator(mode="after")
    def _balanced(self) -> Recipe:
        if not self.balance:
            return self
        labels, training = self.objective.cross_entropy, self.training
        changes: dict[str, object] = {}
        if "select_by" not in training.model_fields_set:
            changes["training"] = training.model_copy(update={"select_by": "balanced_accuracy"})
        if "loss" not in labels.model_fields_set and not self._balances_labels:
            labels = labels.model_copy(update={"loss": "balanced_softmax"})
            changes["objective"] = self.objective.model_copy(update={"cross_entropy": labels})
        return self.model_copy(update=changes)

    @property
    def handles_imbalance(self) -> bool:
        """Whether a loss, or how often classes are shown, does something for rare classes."""
        return self._balances_labels or self._reweights("distillation")

    @property
    def _balances_labels(self) -> bool:
        return (
            self.objective.cross_entropy.loss != "softmax"
            or self.objective.paco is not None
            or self.data.sampler != "uniform"
            or self._reweights("class")
        )

    def _reweights(self, head: Literal["class", "distillation"]) -> bool:
        return self.deferred is not None and self.deferred.reweight in (head, "both")

    @model_validator(mode="after")
    def _guided_by_someone(self) -> Recipe:
        terms = [f"objective.{name}" for name in self.objective.guided_by]
        for name in self.teachers:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(
                    f"teachers: {name!r} should be a small letter, and then small letters, digits "
                    "and underscores: it becomes part of names"
                )
        if self.teacher is not None and self.teachers:
            raise ValueError("teacher: given beside teachers; put it among them, or drop one")
        if terms and not self.all_teachers:
            raise ValueError(
                f"teacher: missing, but needed by {' and '.join(terms)}. "
                "Give teacher.recipe, teacher.run or teacher.model"
            )
        if self.all_teachers and not terms:
            raise ValueError(
                "teacher: nothing learns from it. Add objective.locality or objective.kd, or "
                "take the teacher away (teacher: null)"
            )
        return self

    @model_validator(mode="after")
    def _every_term_has_a_teacher(self) -> Recipe:
        known = self.objective.guided_by
        for name, settings in self.teachers.items():
            for term in settings.terms or ():
                if term not in known:
                    raise ValueError(
                        f"teachers.{name}.terms: {term!r} is no term of the objective that needs a "
                        f"teacher; those are {', '.join(known)}"
                    )
        for term in known:
            if self.teachers and not self.teachers_of(term):
                raise ValueError(f"objective.{term}: none of the teachers takes part in it")
        return self

    @model_validator(mode="after")
    def _offline_teachers_see_what_is_kept(self) -> Recipe:
        mixing = {"mixup": self.augmentation.mixup, "cutmix": self.augmentation.cutmix}
        for name, settings in self.all_teachers.items():
            for key, value in mixing.items():
                if settings.offline and value:
                    raise ValueError(
                        f"augmentation.{key}: the {name}'s stored answers are about single images, "
                        f"not mixed ones. Set augmentation.{key}=0, or offline: false"
                    )
        return self

    @property
    def all_teachers(self) -> Mapping[str, TeacherSection]:
        """All teachers by name; a single one is called "teacher"."""
        return self.teachers if self.teacher is None else {"teacher": self.teacher}

    def teachers_of(self, term: str) -> dict[str, float]:
        """Names of the teachers that a term of the objective learns from, with their weights."""
        if self.teacher is not None:
            return {"teacher": 1.0}
        return {
            name: settings.weight
            for name, settings in self.teachers.items()
            if settings.terms is None or term in settings.terms
        }

    @model_validator(mode="after")
    def _ends_in_a_phase(self) -> Recipe:
        deferred, epochs = self.deferred, self.training.epochs
        if deferred is None:
            return self
        if deferred.first_epoch(epochs) >= epochs:
            raise ValueError(
                f"deferred.after_epochs: {deferred.after_epochs} is too late for training.epochs "
                f"{epochs}; the phase would never begin"
            )
        if self._reweights("distillation"):
            hard = self.objective.hard
            if hard is None or hard.head == "class":
                said = "not given" if hard is None else "for the class head"
                raise ValueError(
                    f"deferred.reweight: {deferred.reweight} re-weights what objective.hard tells "
                    f"the distillation head, and that is {said}. "
                    "Set objective.hard.head=distillation, or use class"
                )
        return self

    @model_validator(mode="after")
    def _reaches_its_learning_rate(self) -> Recipe:
        warmup, epochs = self.schedule.warmup_epochs, self.training.epochs
        if warmup >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs: {warmup:g} is too long for training.epochs {epochs}; "
                "the learning rate would never be reached. Give fewer, or 0"
            )
        late = [milestone for milestone in self.schedule.milestones if milestone >= epochs]
        if late:
            raise ValueError(
                f"schedule.milestones: {late[0]} is too late for training.epochs {epochs}; "
                "the learning rate would not change there"
            )
        rho = self.optimizer.sam.steps if self.optimizer.sam is not None else ()
        late = [epoch for epoch, _ in rho if epoch >= epochs]
        if late:
            raise ValueError(
                f"optimizer.sam.rho: epoch {late[0]} is too late for training.epochs {epochs}; "
                "rho would not change there"
            )
        lr = effective_lr(self)
        if self.schedule.min_lr > lr:
            raise ValueError(
                f"schedule.min_lr: {self.schedule.min_lr:g} is more than the learning rate, {lr:g}"
            )
        return self

    @model_validator(mode="after")
    def _contrasts_whole_images(self) -> Recipe:
        mixing = self.augmentation
        if self.objective.paco is not None and (mixing.mixup or mixing.cutmix):
            raise ValueError(
                "objective.paco: compares images of one class each, and augmentation.mixup and "
                "augmentation.cutmix mix them. Set both to 0"
            )
        return self

    @model_validator(mode="after")
    def _leaves_something_to_see(self) -> Recipe:
        size = self.input.img_size
        side = min(size) if isinstance(size, tuple) else size
        views = {"augmentation": self.augmentation}
        second = {"augmentation.second_view": self.augmentation.second_view}
        for key, view in (views | second).items():
            if view is not None and view.cutout > side:
                raise ValueError(
                    f"{key}.cutout: {view.cutout} pixels are more than images have "
                    f"(input.img_size {side}); nothing would be left to see"
                )
        return self

    @model_validator(mode="after")
    def _needs_its_second_view(self) -> Recipe:
        if self.augmentation.second_view is not None and self.objective.paco is None:
            raise ValueError(
                "augmentation.second_view: no term looks at it. Add objective.paco, or take it "
                "away (augmentation.second_view: null)"
            )
        return self


def without_guidance(recipe: Recipe) -> Recipe:
    """The same student by itself: no teacher, and of the objective what needs none."""
    objective = recipe.objective
    alone = ObjectiveSection(cross_entropy=objective.cross_entropy, paco=objective.paco)
    model = recipe.model.model_copy(update={"distillation_head": False})
    changes: dict[str, object] = {"teacher": None, "teachers": {}, "description": None}
    changes |= {"objective": alone, "model": model}
    deferred = recipe.deferred
    if deferred is not None and deferred.reweight in ("distillation", "both"):
        left = "class" if deferred.reweight == "both" else "none"
        changes["deferred"] = deferred.model_copy(update={"reweight": left})
    return recipe.model_copy(update=changes)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The same for another number of epochs.

    Args:
        recipe: What to change.
        epochs: At least as many as it has.
    """
    assert epochs >= recipe.training.epochs, "the warm-up might not fit"
    training = recipe.training.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"training": training})


def effective_lr(recipe: Recipe) -> float:
    """The learning rate after the warm-up: `optimizer.lr`, scaled to the batch if it is per batch.

    Args:
        recipe: Its `optimizer.lr`, `optimizer.lr_per_batch` and `training.batch_size` are read.
    """
    optimizer = recipe.optimizer
    if optimizer.lr_per_batch is None:
        return optimizer.lr
    return optimizer.lr * recipe.training.batch_size / optimizer.lr_per_batch
