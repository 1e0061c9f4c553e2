"""From a recipe to the optimizer of a run, its gradient and its schedules."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

from vitrellis.data.loader import TrainLoader
from vitrellis.models.support.frozen import layer_scales
from vitrellis.recipe import Recipe, effective_lr
from vitrellis.recipe.sections import OWN_OPTIMIZERS
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.guided import GuidedStudent
from vitrellis.training.keep_rate import KeepRateSchedule
from vitrellis.training.optimizers import (
    LearningRate,
    classifier_names,
    create_optimizer,
    parameter_groups,
)
from vitrellis.training.sam import Gradient, SharpnessAware, plain_gradient


def build_optimizer(recipe: Recipe, guided: GuidedStudent) -> Optimizer:
    """The optimizer over the student and all that its objective learns."""
    student = guided.student
    settings = recipe.optimizer
    # timm's convention; some of its CNNs have no such method
    named: Any = getattr(student, "no_weight_decay", set)
    exempt: set[str] = named()
    groups = parameter_groups(
        guided,
        lr=effective_lr(recipe),
        weight_decay=settings.weight_decay,
        no_weight_decay={f"student.{name}" for name in exempt},
        decay_all=settings.decay_all,
        head=[f"student.{name}" for name in classifier_names(student)],
        head_lr_ratio=settings.head_lr_ratio,
        lr_scales=_lr_scales(recipe, guided),
    )
    has_betas = settings.name in OWN_OPTIMIZERS or "betas" in settings.model_fields_set
    return create_optimizer(
        settings.name,
        groups,
        betas=settings.betas if has_betas else None,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        # torch's fused SGD cannot update weights that are shared in parts
        fused=recipe.training.precision != "16-mixed" and recipe.machine.strategy == "ddp",
        args=settings.args,
    )


def _lr_scales(recipe: Recipe, guided: GuidedStudent) -> dict[str, float]:
    """The factors of the learning rate of the student's layers; what terms learn has none."""
    decay = recipe.optimizer.layer_decay
    if decay == 1:
        return {}
    scales = layer_scales(guided.student, decay)
    return {f"student.{name}": scale for name, scale in scales.items()}


def build_gradient(recipe: Recipe, guided: GuidedStudent, teachers: Teachers) -> Gradient:
    """The gradient at the weights, or that of sharpness-aware minimization."""
    sam = recipe.optimizer.sam
    if sam is None:
        return plain_gradient
    return SharpnessAware([guided, teachers], rho=sam.steps)


def build_learning_rate(recipe: Recipe, loader: TrainLoader) -> LearningRate:
    """The learning rate over the run, whose batches come from the loader."""
    schedule = recipe.schedule
    size = schedule.iteration
    return LearningRate(
        name=schedule.name,
        epochs=recipe.training.epochs,
        steps_per_epoch=loader.steps_per_epoch,
        iterations=None if size is None else math.ceil(loader.images_per_epoch / size),
        iterations_per_step=1 if size is None else recipe.training.batch_size // size,
        warmup_epochs=schedule.warmup_epochs,
        warmup_factor=schedule.warmup_factor,
        min_lr=schedule.min_lr,
        per=schedule.per,
        shift_cosine=schedule.shift_cosine,
        milestones=schedule.milestones,
        factors=schedule.factors,
    )


def build_keep_rate(recipe: Recipe, loader: TrainLoader) -> KeepRateSchedule | None:
    """The keep rate of token pruning over the run, None without pruning."""
    pruning = recipe.pruning
    if pruning is None:
        return None
    return KeepRateSchedule(
        keep_rate=pruning.keep_rate,
        from_epoch=pruning.from_epoch,
        until_epoch=pruning.until_epoch,
        steps_per_epoch=loader.steps_per_epoch,
        levels=recipe.pruning_levels,
    )
