"""From a recipe to the images and models of a run; `optimization.py` is beside it.

The files of this room are the only code that reads a whole recipe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vitrellis.assembly.normalization import (
    Statistics,
    given_normalization,
    measured_normalization,
)
from vitrellis.assembly.recipe_keys import OF_STUDENT, arguments_under
from vitrellis.data.augmentation.mixing import Mix
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.canvas import (
    Canvas,
    OwnShape,
    ProgressCallback,
    StoredSize,
    canvas_for,
    fit_in_memory,
)
from vitrellis.data.loader import EvalLoader, TrainLoader
from vitrellis.data.pixel_cache import DecodedImages, PixelCache, default_folder
from vitrellis.data.sources import Source, Split
from vitrellis.errors import UsageError
from vitrellis.models import check_arguments, create_model, has_distillation_head, set_heads_apart
from vitrellis.models.support.frozen import freeze
from vitrellis.models.support.interop import check_source
from vitrellis.recipe import Recipe, TeacherSection, View
from vitrellis.runs.exported import Preprocessing, Trained
from vitrellis.teachers.teacher import Teacher


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


def build_preprocessing(
    recipe: Recipe, source: Source, progress: ProgressCallback | None = None
) -> Preprocessing:
    """The preprocessing of images in validation, evaluation and prediction alike.

    Args:
        recipe: The recipe.
        source: The images, on which the normalization may have to be measured.
        progress: Called after every image that is decoded for it.

    Raises:
        UsageError: If the recipe's normalisation or channels do not fit the images.
    """
    settings = recipe.input
    if settings.channels is not None and settings.channels != source.channels:
        raise UsageError(
            f"input.channels: {settings.channels}, but the images of {source.name!r} have "
            f"{source.channels}"
        )
    if settings.normalization == "measured":
        canvas = build_canvas(recipe, source)
        size = canvas.size if isinstance(canvas, Canvas) else sides_of(settings.img_size)
        statistics = measured_normalization(
            source.train, Canvas(size, settings.fit), progress, _cache_folder(recipe)
        )
    else:
        statistics = given_normalization(recipe, source.channels)
    return preprocessing_of(recipe, source.channels, statistics)


def build_canvas(recipe: Recipe, source: Source) -> Canvas | OwnShape:
    """How training images are stored before they are augmented."""
    settings, kernel = recipe.input, recipe.augmentation.interpolation
    if settings.canvas is not None and settings.canvas != "original":
        return Canvas(sides_of(settings.canvas), settings.fit, kernel)
    return canvas_for(
        source.train.images,
        sides_of(settings.img_size),
        smallest=recipe.augmentation.smallest_crop,
        fit=settings.fit,
        interpolation=kernel,
        reduced=settings.canvas is None,
    )


def preprocessing_of(
    recipe: Recipe,
    channels: int,
    statistics: Statistics,
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
        UsageError: If the model's name or an argument of it is wrong, or a part to freeze.
    """
    check_arguments(recipe.model.args, "model.args")
    init = recipe.init
    if init.source is not None:
        check_source(init.source)
    with arguments_under(OF_STUDENT):
        student = create_model(
            recipe.model.name,
            num_classes=source.num_classes,
            img_size=sides_of(recipe.input.img_size),
            in_chans=source.channels,
            pretrained=init.pretrained and load_weights,
            weights=init.weights if load_weights else None,
            weights_source=init.source,
            weights_img_size=init.weights_img_size,
            weights_ema=init.weights_ema,
            zero_head=recipe.model.zero_head,
            **recipe.model_arguments,
        )
    if has_distillation_head(student):
        set_heads_apart(student)
    if init.freeze is not None:
        freeze(student, init.freeze, recipe.model.name)
    return student


def build_teacher(
    name: str,
    settings: TeacherSection,
    trained: Trained,
    class_names: Sequence[str],
    student: Preprocessing,
    *,
    compiled: bool,
) -> Teacher:
    """The trained teacher, which takes images that are normalised for the student.

    Raises:
        UsageError: If its classes or channels are not the student's.
    """
    shown = trained.preprocessing
    if list(trained.class_names) != list(class_names):
        raise UsageError(
            f"{name}: it was trained on {len(trained.class_names)} classes "
            f"({', '.join(trained.class_names[:3])}, ...), the data has {len(class_names)} "
            f"({', '.join(class_names[:3])}, ...). Train one on this data: teacher.recipe"
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
        precision=settings.precision,
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
    decoded, is_held = _kept(recipe, source.train, canvas, place, progress)
    return TrainLoader(
        source.train,
        num_classes=source.num_classes,
        batch_size=recipe.training.batch_size,
        transform=_train_transform(recipe, settings, preprocessing),
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
        canvas=canvas.size if isinstance(canvas, Canvas) else canvas,
        fit=recipe.input.fit,
        cache=is_held,
        decoded=decoded,
        workers=place.workers,
        progress=progress,
    )


def _train_transform(recipe: Recipe, view: View, shown: Preprocessing) -> TrainTransform:
    return TrainTransform(
        view, size=shown.img_size, mean=shown.mean, std=shown.std, fit=recipe.input.fit
    )


def _second_view(recipe: Recipe, preprocessing: Preprocessing) -> TrainTransform | None:
    if not recipe.objective.needs_second_view:
        return None
    view = recipe.augmentation.second_view or recipe.augmentation
    return _train_transform(recipe, view, preprocessing)


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
    decoded, is_held = _kept(recipe, split, stored, place, None)
    return EvalLoader(
        split,
        transform=transform,
        batch_size=max(64, recipe.training.batch_size),
        device=place.device,
        rank=place.rank,
        world_size=place.world_size,
        cache=is_held,
        decoded=decoded,
        workers=place.workers,
    )


def _cache_folder(recipe: Recipe) -> Path | None:
    """The folder in which decoded images are kept for later runs; None to keep nothing."""
    keeps = recipe.machine.image_cache_gb > 0 and recipe.input.cache is not False
    return default_folder() if keeps else None


def _kept(
    recipe: Recipe,
    split: Split,
    stored: StoredSize | OwnShape,
    place: Place,
    progress: ProgressCallback | None,
) -> tuple[DecodedImages | None, bool]:
    """The images from the cache folder if they are kept there, and whether they are held."""
    if recipe.input.cache is False:
        return None, False
    folder = _cache_folder(recipe)
    limit = round(1e9 * recipe.machine.image_cache_gb)
    cache = None if folder is None else PixelCache(folder, limit)
    if cache is not None and isinstance(stored, OwnShape):  # they are mapped, whatever their size
        decoded = cache.open(split.images, stored, progress)
        if decoded is not None:
            return decoded, True
    is_held = recipe.input.cache is True or fit_in_memory(
        split.images, stored, place.device, place.world_size
    )
    if cache is None or not is_held or isinstance(stored, OwnShape):
        return None, is_held
    return cache.open(split.images, stored, progress), is_held


def evaluation_place(device: str = "auto") -> Place:
    """This process, on the fastest device there is, or on the one that is named.

    Raises:
        UsageError: If there is no such device.
    """
    return Place(device_of(device), workers=min(8, os.cpu_count() or 1))


def device_of(name: str) -> torch.device:
    """The device that a user names.

    Args:
        name: "cpu", "cuda", "mps", or "auto" for a GPU if there is one.

    Raises:
        UsageError: If there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    there = torch.device("cpu") if accelerator is None else accelerator
    if name == "auto":
        return there
    if name not in ("cpu", there.type):
        known = "cpu" if there.type == "cpu" else f"cpu or {there.type}"
        raise UsageError(f"--device {name}: torch finds no such device here. Use {known}, or auto")
    return torch.device(name)
