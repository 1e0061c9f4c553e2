"""Loads a run's teachers: from recipes, other runs, timm models, or modules from Python.

The run keeps a copy of each in `teacher/`, so that it can be resumed when the original is gone.
For a module from Python it keeps a digest, to refuse another module when it is resumed.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import nn

from vitrellis.assembly.build import Place, build_eval_loader, build_teacher, sides_of
from vitrellis.assembly.model_origin import find_model, statistics_of
from vitrellis.assembly.processes import others_wait
from vitrellis.assembly.python_arguments import check_modules
from vitrellis.assembly.recipe_keys import arguments_under, key_of_teacher, keys_of_named
from vitrellis.assembly.run_folder import locked
from vitrellis.data.canvas import Canvas, OnCanvas, ProgressCallback
from vitrellis.data.loader import TrainLoader
from vitrellis.data.sources import Source, Split
from vitrellis.errors import UsageError, under_key
from vitrellis.models import REFUSALS, check_arguments, check_finite_weights, create_model
from vitrellis.objectives import Needs, Objective
from vitrellis.recipe import Recipe, TeacherSection
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.checksums import read_sealed_json, write_sealed_json
from vitrellis.runs.directory import RunDirectory, find_run
from vitrellis.runs.exported import Preprocessing, Trained, load_exported, save_model
from vitrellis.runs.results import parse
from vitrellis.teachers.precomputed import (
    PrecomputedKey,
    PrecomputedOutputs,
    PrecomputedTeacher,
    weights_digest,
)
from vitrellis.teachers.teacher import Teacher
from vitrellis.teachers.teachers import Teachers


def check_finished_teachers(recipe: Recipe, run: RunDirectory, *, fresh: bool = False) -> None:
    """Makes sure that the runs are there which the recipe's teachers come from.

    Args:
        recipe: The student's recipe.
        run: The student's run directory.
        fresh: Whether the copies of its teachers are to be deleted.

    Raises:
        VitrellisError: If one is not, and the student's run does not hold the teacher already.
    """
    for name, settings in recipe.all_teachers.items():
        is_kept = (run.teacher_model(name) / "config.json").exists() and not fresh
        if settings.run is not None and not is_kept:
            with under_key(f"{key_of_teacher(recipe, name)}.run"):
                find_run(settings.run)


@torch.no_grad()
def check_answers(name: str, teacher: Teacher, num_classes: int, student: Preprocessing) -> None:
    """Makes sure that a module from Python is a classifier of the student's images.

    Args:
        name: Its name.
        teacher: The module as a teacher in eval mode.
        num_classes: K.
        student: The student's preprocessing.

    Raises:
        UsageError: If it cannot take such images, or answers with anything but logits `(B, K)`.
    """
    height, width = student.img_size
    images = torch.zeros(2, student.channels, height, width)
    device = next((value.device for value in teacher.model.parameters()), images.device)
    try:
        logits = teacher.to(device)(images.to(device), Needs(teacher_logits=True)).logits
    except (*REFUSALS, AttributeError) as error:
        raise UsageError(
            f"{name}: the module from Python ({type(teacher.model).__name__}) fails on images "
            f"{tuple(images.shape)}: {' '.join(str(error).split())[:300]}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UsageError(
            f"{name}: the module from Python ({type(teacher.model).__name__}) answers images "
            f"{tuple(images.shape)} with {shape}; logits of the {num_classes} classes of the data "
            f"would be (2, {num_classes})"
        )


def load_teachers(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    student: Preprocessing,
    fabric: Fabric,
    modules: Mapping[str, nn.Module],
    trained_for_it: Mapping[str, RunDirectory],
) -> Teachers:
    """The recipe's teachers on the device.

    Args:
        recipe: The student's recipe.
        run: The student's run directory.
        source: The images.
        student: The student's preprocessing.
        fabric: Fabric, launched.
        modules: Modules from Python, by the names that the recipe gives them.
        trained_for_it: The complete runs of the teachers that have a recipe, by name.

    Raises:
        VitrellisError: If files are missing or damaged.
        UsageError: If classes or channels are not the student's, or modules are missing.
    """
    check_modules(recipe, modules)
    teachers: dict[str, Teacher] = {}
    for name, settings in recipe.all_teachers.items():
        if settings.given:
            trained = _given(modules[name], settings, source, student)
            if fabric.is_global_zero:
                _check_given(modules[name], run.path / f"given-{name}.json", name)
        else:
            folder = run.teacher_model(name)
            if fabric.is_global_zero and not (folder / "config.json").exists():
                key = key_of_teacher(recipe, name)
                _keep(key, settings, source, student, trained_for_it.get(name), folder)
            fabric.barrier()
            trained = load_exported(folder)
        if settings.normalization == "student":
            trained = _normalized_as(student, trained, name)
        teacher = build_teacher(
            name,
            settings,
            trained,
            source.class_names,
            student,
            compiled=recipe.training.compile,
        )
        teachers[name] = teacher.to(fabric.device)
    return Teachers(teachers)


def open_precomputed(
    *,
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    student: Preprocessing,
    teachers: Teachers,
    objective: Objective,
    loader: TrainLoader,
    place: Place,
    fabric: Fabric,
    console: Console,
    progress: ProgressCallback | None,
) -> list[Path]:
    """Gives the offline teachers their stores, which are filled first if they are incomplete.

    Returns:
        The folders of the stores.
    """
    needs = objective.teacher_needs(None)
    folders = []
    for name, teacher in teachers.items():
        settings = recipe.all_teachers[name]
        if not settings.offline:
            continue
        as_they_are = replace(
            student,
            interpolation=loader.transform.interpolation,
            crop_pct=1.0,
            crop_mode="squash",
        )
        key = PrecomputedKey(
            teacher=weights_digest(teacher.model.state_dict()),
            images=source.fingerprint(),
            shown=f"{as_they_are} of {loader.canvas}, {teacher.shown}",
            blocks=needs[name].teacher_blocks,
            precision=settings.offline_precision,
        )
        folder = run.path.parent / "features" / f"{name}-{key.digest()}"
        with others_wait(fabric):
            if fabric.is_global_zero:
                with locked(RunDirectory(folder), console, waits_for="computes these outputs"):
                    store = PrecomputedOutputs(folder, key, len(source.train))
                    if not store.is_complete:
                        alone = replace(place, rank=0, world_size=1)
                        shown = OnCanvas(source.train.images, loader.canvas)
                        whole = Split(shown, source.train.labels)
                        images = build_eval_loader(recipe, whole, as_they_are, alone)
                        store.fill(teacher, images, progress)
        store = PrecomputedOutputs(folder, key, len(source.train))
        stored = loader.canvas.size if isinstance(loader.canvas, Canvas) else None
        teachers.keep(name, PrecomputedTeacher(store, loader.transform, stored))
        folders.append(folder)
    return folders


def named_teacher(
    recipe: Recipe,
    name: str,
    source: Source,
    student: Preprocessing,
    modules: Mapping[str, nn.Module],
    *,
    downloads: bool = True,
) -> Trained:
    """A teacher that has no recipe: of a finished run, a model of timm, or a module from Python.

    Args:
        recipe: The student's recipe.
        name: Its name.
        source: The images.
        student: The student's preprocessing.
        modules: Modules from Python, by name.
        downloads: Whether a model of timm gets its published weights, if the section asks for it.
    """
    settings, key = recipe.all_teachers[name], key_of_teacher(recipe, name)
    if settings.given:
        return _given(modules[name], settings, source, student)
    if settings.run is not None:
        with under_key(f"{key}.run"):
            return load_exported(find_run(settings.run).best_model)
    return _of_timm(key, settings, source, student, downloads=downloads)


def _keep(
    key: str,
    settings: TeacherSection,
    source: Source,
    student: Preprocessing,
    trained_for_it: RunDirectory | None,
    folder: Path,
) -> None:
    """Copies the teacher's model into the run, or creates it there."""
    if settings.model is not None:
        _export_named(key, settings, source, student, folder)
    elif settings.run is not None:
        with under_key(f"{key}.run"):
            _copy_model(find_run(settings.run).best_model, folder)
    else:
        assert trained_for_it is not None, "a teacher with a recipe is trained first"
        _copy_model(trained_for_it.best_model, folder)


def _copy_model(origin: Path, folder: Path) -> None:
    load_exported(origin)  # an error about a damaged file names the original
    folder.mkdir(exist_ok=True)
    for name in ("model.safetensors", "config.json"):  # the config last: it marks completeness
        atomic_write(folder / name, functools.partial(shutil.copyfile, origin / name))


def _normalized_as(student: Preprocessing, trained: Trained, name: str) -> Trained:
    """The same teacher, which takes the numbers that the student gets."""
    own = trained.preprocessing
    if own.channels != student.channels:
        raise UsageError(
            f"{name}.normalization: student, but it takes {own.channels} channels and the student "
            f"{student.channels}; leave it at own"
        )
    return replace(trained, preprocessing=replace(own, mean=student.mean, std=student.std))


def _at_its_size(settings: TeacherSection, student: Preprocessing) -> Preprocessing:
    """The student's preprocessing at the teacher's image size."""
    side = settings.img_size
    if side is None:
        return student
    return replace(student, img_size=sides_of(side))


def _export_named(
    key: str, settings: TeacherSection, source: Source, student: Preprocessing, folder: Path
) -> None:
    """Writes a timm model with its weights."""
    trained = _of_timm(key, settings, source, student, downloads=True)
    save_model(
        trained.model,
        folder,
        architecture=trained.architecture,
        num_classes=source.num_classes,
        model_args=trained.model_args,
        class_names=source.class_names,
        preprocessing=trained.preprocessing,
    )


def _of_timm(
    key: str,
    settings: TeacherSection,
    source: Source,
    student: Preprocessing,
    *,
    downloads: bool,
) -> Trained:
    """A model of timm.

    Its images are normalised as those of its published weights; without those, as the student's.
    """
    assert settings.model is not None
    check_arguments(settings.args, f"{key}.args")
    keys = keys_of_named(key)
    with arguments_under(keys):
        found = find_model(
            settings.model,
            settings.args,
            pretrained=settings.pretrained,
            weights=settings.weights,
            key=key,
        )
    preprocessing = _at_its_size(settings, student)
    if settings.pretrained:
        mean, std = statistics_of(found, settings.model, student.channels, f"{key}.model")
        preprocessing = replace(preprocessing, mean=mean, std=std)
    with arguments_under(keys):
        model = create_model(
            found.name,
            num_classes=source.num_classes,
            img_size=preprocessing.img_size,
            in_chans=student.channels,
            pretrained=found.pretrained and downloads,
            weights=found.weights,
            weights_img_size=settings.weights_img_size,
            weights_ema=settings.weights_ema,
            **found.args,
        )
    return Trained(
        model, found.name, tuple(source.class_names), preprocessing, model_args=found.args
    )


def _given(
    module: nn.Module, settings: TeacherSection, source: Source, student: Preprocessing
) -> Trained:
    check_finite_weights(module.state_dict(), f"the teacher from Python ({type(module).__name__})")
    preprocessing = _at_its_size(settings, student)
    return Trained(module, type(module).__name__, tuple(source.class_names), preprocessing)


@dataclass(frozen=True)
class _ModuleFile:
    """The content of the file with the digest of a module from Python."""

    weights: str


def _check_given(module: nn.Module, file: Path, name: str) -> None:
    """Stores a digest of a module's weights, or compares them with the stored digest."""
    digest_now = weights_digest(module.state_dict())
    if not file.exists():
        write_sealed_json(file, {"weights": digest_now})
    elif parse(_ModuleFile, read_sealed_json(file), file).weights != digest_now:
        raise UsageError(
            f"{file.parent}: was started with another module as {name}: its weights differ. Give "
            "the same module, or use fresh=True or another out="
        )
