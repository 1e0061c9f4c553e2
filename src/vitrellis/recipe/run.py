"""What a run is: one typed object that defines all of it.

`load_recipe` makes one from YAML and the command line. It is validated once,
there, and never changed afterwards. Only the code that builds a run from it receives it whole.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from vitrellis.recipe.objective import DeferredSection, ObjectiveSection
from vitrellis.recipe.sections import (
    Augmentation,
    Data,
    Input,
    Machine,
    Model,
    OptimizerSection,
    Schedule,
    TeacherSection,
    Training,
)
from vitrellis.recipe.types import Index, Section


class Recipe(Section):
    """Everything that defines a run. The least there can be is `model.name`, `training.epochs`."""

    name: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")] = "run"
    """What runs of it are called, such as `demo`; by default the file's name."""
    description: str | None = None
    """One line for the list of recipes."""
    seed: Index = 0
    """Decides everything random: initial weights, order, augmentation."""
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
    def _guided_by_someone(self) -> Recipe:
        terms = [f"objective.{name}" for name in self.objective.guided_by]
        if terms and self.teacher is None:
            raise ValueError(
                f"teacher: missing, but needed by {' and '.join(terms)}. "
                "Give teacher.recipe, teacher.run or teacher.model"
            )
        if self.teacher is not None and not terms:
            raise ValueError(
                "teacher: nothing learns from it. Add objective.locality or objective.kd, or "
                "take the teacher away (teacher: null)"
            )
        return self

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
        if deferred.reweight in ("distillation", "both") and self.objective.hard is None:
            raise ValueError(
                f"deferred.reweight: {deferred.reweight} re-weights objective.hard, which is not "
                "given. Add it, or use class"
            )
        return self

    @model_validator(mode="after")
    def _reaches_its_learning_rate(self) -> Recipe:
        warmup, epochs = self.schedule.warmup_epochs, self.training.epochs
        if warmup >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs: {warmup:g} is too long for training.epochs {epochs}; "
                "the learning rate would never be reached"
            )
        late = [milestone for milestone in self.schedule.milestones if milestone >= epochs]
        if late:
            raise ValueError(
                f"schedule.milestones: {late[0]} is too late for training.epochs {epochs}; "
                "the learning rate would not change there"
            )
        lr = effective_lr(self)
        if self.schedule.min_lr > lr:
            raise ValueError(
                f"schedule.min_lr: {self.schedule.min_lr:g} is more than the learning rate, {lr:g}"
            )
        return self


def without_guidance(recipe: Recipe) -> Recipe:
    """The same student by itself: no teacher, and of the objective what needs none."""
    alone = ObjectiveSection(cross_entropy=recipe.objective.cross_entropy)
    model = recipe.model.model_copy(update={"distillation_head": False})
    changes: dict[str, object] = {"teacher": None, "objective": alone, "model": model}
    changes["description"] = None
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
