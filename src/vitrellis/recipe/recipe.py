"""The recipe: one typed object that defines all of a run.

`load_recipe` makes a recipe from YAML and the command line. It is validated there, once, and never
changed afterwards. Only the code that builds a run from it receives the whole recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from vitrellis.objectives import DeferredSection, Head
from vitrellis.recipe.image_sections import Augmentation, Data, Input
from vitrellis.recipe.init_section import Init
from vitrellis.recipe.objective_section import ObjectiveSection
from vitrellis.recipe.pruning_section import COMPILED_LEVELS, Pruning
from vitrellis.recipe.sections import Machine, Model, OptimizerSection, Schedule, Training
from vitrellis.recipe.teacher_sections import NamedTeacher, TeacherSection
from vitrellis.settings import Index, Section

_UPDATE_PARTS = ("adam", "adamw", "lamb", "lion", "momentum", "nadamw", "nesterov", "sgd")
"""The optimizers that may be used where weights are shared in parts. Many others of timm's fail on
a part, or compute something else; these update it as they update the whole."""


class Recipe(Section):
    """Everything that defines a run. Only `model.name` and `training.epochs` are required."""

    name: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")] = "run"
    """The name of the recipe and of its runs, such as `demo`; by default the file's name."""
    description: str | None = None
    """One line for the list of recipes."""
    seed: Index = 0
    """The seed of everything random: initial weights, the order of images, augmentation."""
    balance: bool = False
    """Whether to compensate for classes of unequal size: balanced softmax instead of plain
    cross-entropy, without label smoothing, and the best epoch is chosen by class-balanced accuracy.
    A loss or `training.select_by` that is given stays as it is, and so does the loss beside a
    sampler, re-weighting or PaCo. A teacher that is trained for the student follows."""
    data: Data = Data()
    """The images to train and test on."""
    input: Input = Input()
    """How images reach the model, in training, evaluation and prediction alike."""
    augmentation: Augmentation = Augmentation()
    """How training images are augmented."""
    model: Model
    """The student."""
    init: Init = Init()
    """Fine-tuning: the weights that training starts from, and those that stay as they are."""
    teacher: TeacherSection | None = None
    """The teacher of the student."""
    teachers: dict[str, NamedTeacher] = Field(default_factory=dict)
    """Several teachers in place of `teacher`, by names of your own. Each has the keys of `teacher`
    and two more, `weight` and `terms`; their losses are added."""
    objective: ObjectiveSection = ObjectiveSection()
    """The terms of the loss."""
    deferred: DeferredSection | None = None
    """A last phase, in which classes count the same."""
    pruning: Pruning | None = None
    """Training with token pruning."""
    optimizer: OptimizerSection = OptimizerSection()
    """How the weights are updated."""
    schedule: Schedule = Schedule()
    """How the learning rate changes during training."""
    training: Training
    """The length of training, the batches, the precision and the choice of the best epoch."""
    machine: Machine = Machine()
    """The hardware that the run uses. It is not part of the run's identity."""

    @property
    def model_arguments(self) -> dict[str, Any]:
        """All settings of the student's architecture besides its name, those of pruning too."""
        return self.model.arguments | (self.pruning.arguments if self.pruning is not None else {})

    @property
    def pruning_levels(self) -> int | None:
        """The number of equal parts in which the keep rate falls; None if it is smooth."""
        return COMPILED_LEVELS if self.training.compile else None

    @property
    def all_teachers(self) -> Mapping[str, TeacherSection]:
        """All teachers by name; a single one is called "teacher"."""
        return self.teachers if self.teacher is None else {"teacher": self.teacher}

    def teachers_of(self, term: str) -> dict[str, float]:
        """The teachers that a term of the objective learns from, with their weights."""
        if self.teacher is not None:
            return {"teacher": 1.0}
        return {
            name: settings.weight
            for name, settings in self.teachers.items()
            if settings.terms is None or term in settings.terms
        }

    @property
    def handles_imbalance(self) -> bool:
        """Whether a loss or the sampler compensates for rare classes."""
        return self._labels_are_balanced or self._reweights("distillation")

    @property
    def _labels_are_balanced(self) -> bool:
        return (
            any(section.handles_imbalance for section in self.objective.terms.values())
            or self.data.sampler != "uniform"
            or self._reweights("class")
        )

    def _reweights(self, head: Head) -> bool:
        return self.deferred is not None and self.deferred.reweights(head)

    @model_validator(mode="after")
    def _apply_balance(self) -> Self:
        if not self.balance:
            return self
        labels, training = self.objective.cross_entropy, self.training
        changes: dict[str, object] = {}
        if "select_by" not in training.model_fields_set:
            changes["training"] = training.model_copy(update={"select_by": "balanced_accuracy"})
        if "loss" not in labels.model_fields_set and not self._labels_are_balanced:
            # spread evenly over the classes, smoothing would make the rarest one the answer to
            # every image of which nothing is known
            update = {"loss": "balanced_softmax", "label_smoothing": 0.0}
            labels = labels.model_copy(update=update)
            changes["objective"] = self.objective.model_copy(update={"cross_entropy": labels})
        self.__dict__.update(changes)  # pydantic wants the same object back, which is still ours
        return self

    @model_validator(mode="after")
    def _apply_pretrained(self) -> Self:
        """Images for published weights are normalised as for their training, unless told not to."""
        if self.init.pretrained and "normalization" not in self.input.model_fields_set:
            changed = self.input.model_copy(update={"normalization": "model"})
            self.__dict__.update(input=changed)  # as in `_apply_balance`
        for key, section in self.all_teachers.items():
            if section.weights_ema and section.weights is None:
                raise ValueError(f"{key}.weights_ema: there is no file; give {key}.weights")
        return self

    @model_validator(mode="after")
    def _check_teachers_and_terms_match(self) -> Self:
        guided = self.objective.guided_terms
        for name in self.teachers:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(
                    f"teachers: {name!r} should be a small letter, and then small letters, digits "
                    "and underscores: it becomes part of names"
                )
        if self.teacher is not None and self.teachers:
            raise ValueError(
                "teacher: given beside teachers; put it among them, or drop one of them "
                "(teacher=null, or teachers=null)"
            )
        if guided and not self.all_teachers:
            terms = " and ".join(f"objective.{key}" for key in guided)
            dropped = " ".join(f"objective.{key}=null" for key in guided)
            raise ValueError(
                f"teacher: missing, but needed by {terms}. Give teacher.recipe, teacher.run or "
                f"teacher.model, or drop what needs it ({dropped})"
            )
        if self.all_teachers and not guided:
            raise ValueError(
                "teacher: no term learns from it. Add objective.locality or objective.kd, or "
                "remove the teacher (teacher: null)"
            )
        for name, settings in self.teachers.items():
            for term in settings.terms or ():
                if term not in guided:
                    raise ValueError(
                        f"teachers.{name}.terms: {term!r} is no term of the objective that needs a "
                        f"teacher; those are {', '.join(guided)}"
                    )
        for term in guided:
            if self.teachers and not self.teachers_of(term):
                raise ValueError(f"objective.{term}: none of the teachers takes part in it")
        return self

    @model_validator(mode="after")
    def _check_images_are_not_mixed_where_they_must_not(self) -> Self:
        mixing = {"mixup": self.augmentation.mixup, "cutmix": self.augmentation.cutmix}
        for name, settings in self.all_teachers.items():
            for key, value in mixing.items():
                if settings.offline and value:
                    raise ValueError(
                        f"augmentation.{key}: the stored outputs of {name} are about single "
                        f"images, not mixed ones. Set augmentation.{key}=0, or offline: false"
                    )
        for key, section in self.objective.terms.items():
            if section.needs_whole_images and any(mixing.values()):
                raise ValueError(
                    f"objective.{key}: compares images of one class each, and augmentation.mixup "
                    "and augmentation.cutmix mix them. Set both to 0"
                )
        return self

    @model_validator(mode="after")
    def _check_deferred_phase(self) -> Self:
        deferred, epochs = self.deferred, self.training.epochs
        if deferred is None:
            return self
        if deferred.first_epoch(epochs) >= epochs:
            raise ValueError(
                f"deferred.after_epochs: {deferred.after_epochs} is too late for training.epochs "
                f"{epochs}; the phase would never begin. Give fewer, or deferred.share=0.8 instead"
            )
        heads = [section.reweighted_head for section in self.objective.terms.values()]
        if deferred.reweights("distillation") and "distillation" not in heads:
            raise ValueError(
                f"deferred.reweight: {deferred.reweight} re-weights the loss of hard labels on the "
                "distillation head, and no term has it. Set objective.hard.head=distillation, or "
                "use class"
            )
        return self

    @model_validator(mode="after")
    def _check_pruning(self) -> Self:
        pruning, epochs = self.pruning, self.training.epochs
        if pruning is None:
            return self
        if pruning.until_epoch >= epochs:
            raise ValueError(
                f"pruning.until_epoch: {pruning.until_epoch} is too late for training.epochs "
                f"{epochs}; no epoch would have the keep rate {pruning.keep_rate:g}. Give fewer"
            )
        for key in pruning.arguments:
            if key in self.model.args:
                raise ValueError(
                    f"model.args.{key}: given beside the section pruning, which sets it. Leave out "
                    "one of them (pruning: null keeps the rate of model.args throughout)"
                )
        return self

    @model_validator(mode="after")
    def _check_schedule_fits_training(self) -> Self:
        warmup, epochs = self.schedule.warmup_epochs, self.training.epochs
        if warmup >= epochs:
            raise ValueError(
                f"schedule.warmup_epochs: {warmup:g} is too long for training.epochs {epochs}; "
                "the learning rate would never be reached. Give fewer, or 0"
            )
        size = self.schedule.iteration
        if size is not None and (self.schedule.per == "epoch" or self.training.batch_size % size):
            raise ValueError(
                f"schedule.iteration: {size} images are counted with schedule.per step, and where "
                f"they divide training.batch_size {self.training.batch_size}. Set "
                "schedule.iteration=null to count steps"
            )
        late = [milestone for milestone in self.schedule.milestones if milestone >= epochs]
        if late:
            raise ValueError(
                f"schedule.milestones: {late[0]} is too late for training.epochs {epochs}; the "
                "learning rate would not change there. Give other milestones, or "
                "schedule.name=cosine"
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
                f"schedule.min_lr: {self.schedule.min_lr:g} is more than the learning rate, "
                f"{lr:g}; the cosine ends with it, so it should be less"
            )
        return self

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
        if self.machine.strategy == "ddp":
            return self
        without_it = {
            "training.ema=null": self.training.ema is None,
            "training.compile=false": not self.training.compile,
            "training.precision=bf16-mixed": self.training.precision != "16-mixed",
            "optimizer.sam=null": self.optimizer.sam is None,
            "objective.paco=null": self.objective.paco is None,
        }
        missing = [change for change, is_so in without_it.items() if not is_so]
        if missing:
            raise ValueError(
                f"machine.strategy: fsdp needs {' '.join(missing)}; use that, or "
                "machine.strategy=ddp"
            )
        if self.optimizer.name.lower() not in _UPDATE_PARTS:
            raise ValueError(
                f"machine.strategy: fsdp goes with optimizer.name {', '.join(_UPDATE_PARTS)}, and "
                f"not with {self.optimizer.name}, which may need whole weights. Use one of them, "
                "or machine.strategy=ddp"
            )
        return self

    @model_validator(mode="after")
    def _check_views(self) -> Self:
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
        if self.augmentation.second_view is not None and not self.objective.needs_second_view:
            raise ValueError(
                "augmentation.second_view: no term looks at it. Add objective.paco, or remove it "
                "(augmentation.second_view: null)"
            )
        return self


def without_guidance(recipe: Recipe) -> Recipe:
    """The recipe of the same student alone: no teachers, and only the terms that need none."""
    objective, guided = recipe.objective, recipe.objective.guided_terms
    model = recipe.model.model_copy(update={"distillation_head": False})
    changes: dict[str, object] = {"teacher": None, "teachers": {}, "description": None}
    changes |= {"objective": objective.model_copy(update=dict.fromkeys(guided)), "model": model}
    deferred = recipe.deferred
    if deferred is not None and deferred.reweights("distillation"):
        left = "class" if deferred.reweight == "both" else "none"
        changes["deferred"] = deferred.model_copy(update={"reweight": left})
    return recipe.model_copy(update=changes)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The same recipe with another number of epochs.

    Args:
        recipe: The recipe.
        epochs: The new number of epochs, at least the recipe's.
    """
    assert epochs >= recipe.training.epochs, "the warm-up might not fit"
    training = recipe.training.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"training": training})


def effective_lr(recipe: Recipe) -> float:
    """The learning rate after the warm-up: `optimizer.lr`, scaled to the batch if it is per batch.

    Args:
        recipe: The recipe, whose `optimizer` and `training.batch_size` are read.
    """
    optimizer = recipe.optimizer
    if optimizer.lr_per_batch is None:
        return optimizer.lr
    return optimizer.lr * recipe.training.batch_size / optimizer.lr_per_batch
