"""From a recipe to the parts of a run: the only code that reads a whole recipe."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vitrellis.assembly.pretrained import pretrained_normalization
from vitrellis.data.augmentation.mixing import Mix
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.canvas import (
    Canvas,
    ProgressCallback,
    canvas_for,
    fits_in_memory,
    measure_normalization,
)
from vitrellis.data.loader import EvalLoader, TrainLoader
from vitrellis.data.sources import Source, Split
from vitrellis.errors import UsageError
from vitrellis.models import create_model, has_distillation_head, set_heads_apart
from vitrellis.recipe import Recipe, TeacherSection, View, effective_lr
from vitrellis.runs.exported import Preprocessing, Trained
from vitrellis.teachers.teacher import Teacher
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

NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Mean and standard deviation per channel, for images in [0, 1]."""


@dataclass(frozen=True)
class Place:
    """The device and the rank of a process.

    Attributes:
        device: The device of this process.
        rank: The number of this process among all.
        world_size: The number of processes.
        workers: The number of processes that read images if the dataset does not fit in memory.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    workers: int = 0


def build_preprocessing(recipe: Recipe, source: Source) -> Preprocessing:
    """The preprocessing of images in validation, evaluation and prediction alike.

    Raises:
        UsageError: If the recipe's normalisation or channels do not fit the images.
    """
    settings = recipe.input
    if settings.channels is not None and settings.channels != source.channels:
        raise UsageError(
            f"input.channels: {settings.channels}, but the images of {source.name!r} have "
            f"{source.channels}"
        )
    statistics: tuple[Sequence[float], Sequence[float]]
    if settings.normalization == "measured":
        canvas = build_canvas(recipe, source)
        statistics = measure_normalization(source.train, canvas.size, canvas.fit)
    else:
        statistics = given_normalization(recipe, source.channels)
    return preprocessing_of(recipe, source.channels, statistics)


def build_canvas(recipe: Recipe, source: Source) -> Canvas:
    """The size at which training images are stored before they are augmented."""
    settings = recipe.input
    canvas = settings.canvas
    if canvas is None:
        canvas = canvas_for(source.train.images, sides_of(settings.img_size))
    return Canvas(sides_of(canvas), settings.fit)


def given_normalization(recipe: Recipe, channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and the standard deviation per channel that the recipe gives.

    Grey images take the means over the three channels of colour statistics.

    Raises:
        UsageError: If they are to be measured, or are for another number of channels.
    """
    normalization = recipe.input.normalization
    if normalization == "measured":
        raise UsageError(
            "input.normalization: cannot be measured without images. Name them (data.*), or give "
            "imagenet, cifar, or a mapping with mean and std"
        )
    if normalization == "model":
        return pretrained_normalization(recipe.model.name, channels, "input.normalization")
    mean, std = (
        NORMALIZATIONS[normalization]
        if isinstance(normalization, str)
        else (normalization.mean, normalization.std)
    )
    if channels == 1 and len(mean) == 3:
        return [sum(mean) / 3], [sum(std) / 3]
    if len(mean) != channels:
        raise UsageError(
            f"input.normalization: {normalization!r} is for {len(mean)} channels, the images have "
            f"{channels}. Use input.normalization=measured"
        )
    return mean, std


def preprocessing_of(
    recipe: Recipe,
    channels: int,
    statistics: tuple[Sequence[float], Sequence[float]],
) -> Preprocessing:
    """The preprocessing that a recipe describes, with the values that depend on the images.

    Args:
        recipe: The recipe, whose `input` is read.
        channels: The number of channels of the images.
        statistics: The mean and the standard deviation of each channel.
    """
    settings = recipe.input
    mean, std = statistics
    return Preprocessing(
        img_size=sides_of(settings.img_size),
        channels=channels,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=settings.interpolation or recipe.augmentation.interpolation,
        crop_pct=settings.crop_pct,
        value_range=recipe.data.value_range,
        crop_mode=settings.crop_mode or ("center" if settings.fit == "crop" else "squash"),
    )


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """`(H, W)`; a single number is the side of a square."""
    return (size, size) if isinstance(size, int) else size


def build_student(recipe: Recipe, source: Source, *, load_weights: bool = True) -> nn.Module:
    """The model that the recipe trains. In training, two heads give separate logits.

    Args:
        recipe: The recipe.
        source: The images, for the numbers of classes and channels.
        load_weights: Whether to load the initial weights that the recipe names, if it names some.

    Raises:
        UsageError: If the model's name or an argument of it is wrong.
    """
    student = create_model(
        recipe.model.name,
        num_classes=source.num_classes,
        img_size=sides_of(recipe.input.img_size),
        in_chans=source.channels,
        pretrained=recipe.model.pretrained and load_weights,
        weights=recipe.model.weights if load_weights else None,
        weights_img_size=recipe.model.weights_img_size,
        weights_ema=recipe.model.weights_ema,
        zero_head=recipe.model.zero_head,
        **recipe.model_arguments,
    )
    if has_distillation_head(student):
        set_heads_apart(student)
    return student


def build_teacher(
    name: str,
    settings: TeacherSection,
    trained: Trained,
    source: Source,
    student: Preprocessing,
    *,
    compiled: bool,
) -> Teacher:
    """The trained teacher, which takes images that are normalised for the student.

    Raises:
        UsageError: If its classes or channels are not the student's.
    """
    shown = trained.preprocessing
    if list(trained.class_names) != list(source.class_names):
        raise UsageError(
            f"{name}: it was trained on {len(trained.class_names)} classes "
            f"({', '.join(trained.class_names[:3])}, ...), the data has {source.num_classes} "
            f"({', '.join(source.class_names[:3])}, ...). Train one on this data: teacher.recipe"
        )
    channels = {shown.channels, student.channels}
    if len(channels) > 1 and channels != {1, 3}:
        raise UsageError(
            f"{name}: it takes {shown.channels} channels, the images have {student.channels}; only "
            "grey and colour are told apart. Train one on this data: teacher.recipe"
        )
    return Teacher(
        trained.model,
        img_size=shown.img_size,
        channels=shown.channels,
        mean=shown.mean,
        std=shown.std,
        student_mean=student.mean,
        student_std=student.std,
        resize=settings.resize,
        mode=settings.mode,
        compiled=compiled,
    )


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
    )
    return create_optimizer(
        settings.name,
        groups,
        betas=settings.betas,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=recipe.training.precision != "16-mixed",
    )


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


def build_train_loader(
    recipe: Recipe,
    source: Source,
    preprocessing: Preprocessing,
    place: Place,
    progress: ProgressCallback | None = None,
) -> TrainLoader:
    """Augmented, mixed batches of the training split; `progress` is called as images are read."""
    settings = recipe.augmentation
    canvas = build_canvas(recipe, source)
    mix = Mix(
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        switch=settings.mix_switch,
        probability=settings.mix_probability,
    )
    return TrainLoader(
        source.train,
        num_classes=source.num_classes,
        batch_size=recipe.training.batch_size,
        transform=_train_transform(settings, preprocessing),
        mix=mix if mix.active else None,
        mix_epochs=_mix_epochs(recipe),
        seed=recipe.seed,
        device=place.device,
        rank=place.rank,
        world_size=place.world_size,
        drop_last=recipe.training.drop_last,
        selected_round=recipe.training.selected_round,
        repeats=settings.repeats,
        second_view=_second_view(recipe, preprocessing),
        sampler=recipe.data.sampler,
        canvas=canvas.size,
        fit=canvas.fit,
        cache=_is_cached(recipe, source.train, canvas.size, place),
        workers=place.workers,
        progress=progress,
    )


def _train_transform(view: View, preprocessing: Preprocessing) -> TrainTransform:
    return TrainTransform(
        view, size=preprocessing.img_size, mean=preprocessing.mean, std=preprocessing.std
    )


def _second_view(recipe: Recipe, preprocessing: Preprocessing) -> TrainTransform | None:
    if not recipe.objective.needs_second_view:
        return None
    return _train_transform(recipe.augmentation.second_view or recipe.augmentation, preprocessing)


def _mix_epochs(recipe: Recipe) -> int | None:
    deferred = recipe.deferred
    if deferred is None or deferred.mixing:
        return None
    return deferred.first_epoch(recipe.training.epochs)


def build_eval_loader(
    recipe: Recipe, split: Split, preprocessing: Preprocessing, place: Place
) -> EvalLoader:
    """A split as the model is evaluated on it."""
    transform = preprocessing.transform()
    stored, _ = transform.stored(split.images)
    return EvalLoader(
        split,
        transform=transform,
        batch_size=max(64, recipe.training.batch_size),
        device=place.device,
        rank=place.rank,
        world_size=place.world_size,
        cache=_is_cached(recipe, split, stored.size, place),
        workers=place.workers,
    )


def _is_cached(recipe: Recipe, split: Split, stored: tuple[int, int], place: Place) -> bool:
    if isinstance(recipe.input.cache, bool):
        return recipe.input.cache
    return fits_in_memory(len(split), split.images.channels, stored, place.device)


def evaluation_place() -> Place:
    """This process, on the fastest device there is."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = accelerator if accelerator is not None else torch.device("cpu")
    return Place(device, workers=min(8, os.cpu_count() or 1))
