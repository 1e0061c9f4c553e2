"""Finds what is wrong with a recipe in seconds, before a teacher is trained or a run is deleted.

All models are built, teachers that are yet to be trained with their initial weights, and so are all
terms and optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitrellis.assembly.batch_norms import check_batch_norms, models_in_training
from vitrellis.assembly.build import (
    build_student,
    build_teacher,
    preprocessing_of,
    sides_of,
)
from vitrellis.assembly.images_of_run import with_root
from vitrellis.assembly.load_teachers import (
    check_answers,
    check_finished_teachers,
    named_teacher,
)
from vitrellis.assembly.model_origin import with_model_found
from vitrellis.assembly.normalization import given_normalization
from vitrellis.assembly.optimization import build_optimizer
from vitrellis.assembly.parts import UserObjects
from vitrellis.assembly.python_arguments import check_modules
from vitrellis.assembly.recipe_keys import of_teacher
from vitrellis.assembly.sharding import check_can_be_sharded
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.assembly.terms import build_objective, check_trained_heads
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.models import check_takes_images
from vitrellis.objectives import CrossEntropy, Objective
from vitrellis.recipe import Recipe, TeacherSection
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, Trained, load_exported
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.guided import GuidedStudent

_GREY = 0.5, 0.25
"""Stand for a mean and a standard deviation that are yet to be measured."""


@dataclass(frozen=True)
class PlannedTeacher:
    """A teacher that has a recipe.

    Attributes:
        recipe: Its recipe.
        source: Its images.
        run: Its run directory.
    """

    recipe: Recipe
    source: Source
    run: RunDirectory


def source_of_teacher(
    recipe: Recipe,
    name: str,
    teacher: Recipe,
    prepared: Source,
    given: Source | None,
    root: Path | None,
) -> Source:
    """The images that a teacher is trained on.

    Args:
        recipe: The student's recipe.
        name: The teacher's name.
        teacher: The teacher's recipe.
        prepared: The student's images.
        given: Images from Python, or None.
        root: Where the student's `data.root` was found.
    """
    if (teacher.data, teacher.seed, teacher.input.channels) == (
        recipe.data,
        recipe.seed,
        recipe.input.channels,
    ):
        return prepared
    if teacher.data.root == recipe.data.root:
        teacher = with_root(teacher, root)
    with of_teacher(recipe, name):
        return build_source(teacher, given, known=prepared.checked_images)


def rehearse(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    teachers: Mapping[str, PlannedTeacher],
    user_objects: UserObjects,
    *,
    fresh: bool,
    world_size: int,
) -> None:
    """Makes sure that all parts of a run can be built.

    Args:
        recipe: The recipe.
        run: The run directory, which may be missing.
        source: The images, with their splits.
        teachers: The teachers that have a recipe, by name.
        user_objects: Teachers and terms from Python.
        fresh: Whether the content of the run directory is to be deleted.
        world_size: The number of processes.

    Raises:
        UsageError: If a name, a size, a term or a module does not fit.
        VitrellisError: If a file that the recipe names is missing or damaged.
    """
    if run.results_file.exists() and not fresh:
        return
    is_resumed = run.last_checkpoint.exists() and not fresh
    recipe = with_model_found(recipe, None if fresh else run, source.channels)
    if recipe.training.early_stopping_patience is not None and source.val is None:
        raise UsageError(
            "training.early_stopping_patience: there are no validation images to tell which epoch "
            "is better. Give data.val_fraction, or set it to null"
        )
    student = build_student(recipe, source, load_weights=not is_resumed)
    check_takes_images(student, recipe.model.name, source.channels, sides_of(recipe.input.img_size))
    check_trained_heads(recipe, student, user_objects.terms)
    check_finished_teachers(recipe, run, fresh=fresh)
    check_modules(recipe, user_objects.teachers)
    if is_resumed:
        return
    preprocessing = _preprocessing(recipe, source)
    stand_ins = {}
    for name, settings in recipe.all_teachers.items():
        if name in teachers:
            with of_teacher(recipe, name):
                trained = untrained(teachers[name], world_size)
        elif (run.teacher_model(name) / "config.json").exists() and not fresh:
            trained = load_exported(run.teacher_model(name))
        else:
            trained = named_teacher(
                recipe, name, source, preprocessing, user_objects.teachers, downloads=False
            )
        stand_ins[name] = build_teacher(
            name,
            _as_it_is(settings),
            trained,
            source.class_names,
            preprocessing,
            compiled=False,
        )
        if settings.given:
            check_answers(name, stand_ins[name], source.num_classes, preprocessing)
    objective = build_objective(
        recipe,
        student,
        preprocessing,
        Teachers(stand_ins),
        class_counts=source.class_counts,
        own_terms=user_objects.terms,
    )
    models = models_in_training(recipe, student, preprocessing, stand_ins)
    check_batch_norms(recipe, len(source.train), world_size, models, objective)
    check_can_be_sharded(recipe, student, objective)
    build_optimizer(recipe, GuidedStudent(student, objective))


def untrained(teacher: PlannedTeacher, world_size: int) -> Trained:
    """The model of a teacher's recipe with its initial weights."""
    source = teacher.source
    recipe = with_model_found(teacher.recipe, teacher.run, source.channels)
    is_begun = teacher.run.last_checkpoint.exists() or teacher.run.results_file.exists()
    model = build_student(recipe, source, load_weights=not is_begun)
    size = sides_of(recipe.input.img_size)
    check_takes_images(model, recipe.model.name, source.channels, size)
    check_trained_heads(recipe, model)
    preprocessing = _preprocessing(recipe, source)
    models = models_in_training(recipe, model, preprocessing, {})
    check_batch_norms(recipe, len(source.train), world_size, models)
    build_optimizer(recipe, GuidedStudent(model, Objective([CrossEntropy()])))
    return Trained(model, recipe.model.name, tuple(source.class_names), preprocessing)


def _preprocessing(recipe: Recipe, source: Source) -> Preprocessing:
    """The preprocessing, without measuring the images."""
    channels = source.channels
    if recipe.input.normalization == "measured":
        mean, std = ([value] * channels for value in _GREY)
        return preprocessing_of(recipe, channels, (mean, std))
    return preprocessing_of(recipe, channels, given_normalization(recipe, channels))


def _as_it_is(settings: TeacherSection) -> TeacherSection:
    """The same teacher in eval mode, so that building the terms leaves its statistics alone."""
    return settings.model_copy(update={"mode": "eval"})
