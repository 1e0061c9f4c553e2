"""The parts of a run, built from its recipe."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console
from timm.layers import convert_sync_batchnorm
from torch import nn

from vitrellis.assembly import build
from vitrellis.assembly.batch_norms import check_batch_norms, models_in_training
from vitrellis.assembly.load_teachers import load_teachers, open_precomputed
from vitrellis.assembly.model_origin import keep_description, with_model_found
from vitrellis.assembly.terms import build_objective
from vitrellis.data.bad_images import naming_all_bad_images
from vitrellis.data.loader import EvalLoader, TrainLoader
from vitrellis.data.sources import Source, Split
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.objectives import FollowingTerm, Term
from vitrellis.recipe import Recipe
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, save_model
from vitrellis.runs.results import EpochRow
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.display import reading
from vitrellis.training.gathering import gathering_rows
from vitrellis.training.guided import GuidedStudent


@dataclass(frozen=True)
class UserObjects:
    """Objects that a recipe cannot name, passed in from Python.

    Attributes:
        teachers: Modules by the names that the recipe gives them.
        terms: Terms that are added to those of the recipe's objective.
        on_epoch_end: Called with the figures of each epoch.
    """

    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    terms: Sequence[Term] = ()
    on_epoch_end: Callable[[EpochRow], object] | None = None


@dataclass(frozen=True)
class Parts:
    """The parts of a run, on its device.

    Attributes:
        recipe: The recipe.
        source: The images, with their splits.
        preprocessing: The preprocessing of the images.
        place: The device and the rank of this process.
        guided: The student with its objective.
        teachers: The student's teachers.
        loader: The training batches.
        stores: The folders with the stored outputs of offline teachers.
    """

    recipe: Recipe
    source: Source
    preprocessing: Preprocessing
    place: build.Place
    guided: GuidedStudent
    teachers: Teachers
    loader: TrainLoader
    stores: tuple[Path, ...]

    def evaluation(self, split: Split, place: build.Place | None = None) -> EvalLoader:
        """A split as the student is evaluated on it, by all processes or at another place."""
        with naming_all_bad_images(self.source):
            return build.build_eval_loader(
                self.recipe, split, self.preprocessing, place if place is not None else self.place
            )

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes a student in timm's local format, with the keep rate that it has now."""
        pruning = model.pruning_arguments() if isinstance(model, TokenReduction) else {}
        save_model(
            model,
            folder,
            architecture=self.recipe.model.name,
            num_classes=self.source.num_classes,
            model_args=self.recipe.model_arguments | pruning,
            class_names=self.source.class_names,
            preprocessing=self.preprocessing,
        )


def synchronize_batch_norms(guided: GuidedStudent, teachers: Teachers) -> None:
    """Makes batch norms take their statistics over all devices, in place.

    Names and values of weights stay, so that checkpoints and exported models do. timm's function
    keeps the activation of its batch norms that have one, which torch's own drops.

    Args:
        guided: The student and its objective.
        teachers: The teachers; those in train mode have batch statistics as well.
    """
    for module in (guided, teachers):
        converted = convert_sync_batchnorm(module)
        assert converted is module, "only a module that is a batch norm itself is replaced"


def prepare_parts(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    fabric: Fabric,
    console: Console,
    user_objects: UserObjects,
    trained_for_it: Mapping[str, RunDirectory],
) -> Parts:
    """Builds the parts of a run, and computes the outputs of offline teachers.

    A run that is resumed takes its weights from its checkpoint: the initial weights that its recipe
    names are not read again. The arguments are those of `train_student`.
    """
    keep_description(recipe, run, fabric)
    recipe = with_model_found(recipe, run, source.channels)
    with naming_all_bad_images(source), reading(console, "measuring the images") as progress:
        preprocessing = build.build_preprocessing(recipe, source, progress)
    with _notes_on_weights_left_out():  # the rehearsal gave them
        torch.manual_seed(recipe.seed)
        teachers = load_teachers(
            recipe, run, source, preprocessing, fabric, user_objects.teachers, trained_for_it
        )
        torch.manual_seed(recipe.seed)  # again: a teacher that exists already draws less
        is_resumed = run.last_checkpoint.exists()
        student = build.build_student(recipe, source, load_weights=not is_resumed)
    objective = build_objective(
        recipe,
        student,
        preprocessing,
        teachers,
        class_counts=source.class_counts,
        own_terms=user_objects.terms,
    )
    guided = GuidedStudent(student, objective, compiled=recipe.training.compile)
    guided.to(fabric.device)
    models = models_in_training(recipe, student, preprocessing, dict(teachers.items()))
    check_batch_norms(recipe, len(source.train), fabric.world_size, models, objective)
    _set_up(recipe, guided, teachers, fabric)
    workers = recipe.machine.workers
    place = build.Place(
        fabric.device,
        fabric.global_rank,
        fabric.world_size,
        min(8, os.cpu_count() or 1) if workers == "auto" else workers,
    )
    with naming_all_bad_images(source), reading(console) as progress:
        loader = build.build_train_loader(recipe, source, preprocessing, place, progress)
    with reading(console, "computing the teacher's outputs") as progress:
        stores = open_precomputed(
            recipe=recipe,
            run=run,
            source=source,
            student=preprocessing,
            teachers=teachers,
            objective=objective,
            loader=loader,
            place=place,
            fabric=fabric,
            console=console,
            progress=progress,
        )
    return Parts(recipe, source, preprocessing, place, guided, teachers, loader, tuple(stores))


@contextmanager
def _notes_on_weights_left_out() -> Iterator[None]:
    """Keeps what is said of weights when they are loaded from being said again."""
    logger = logging.getLogger("vitrellis.models")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _set_up(recipe: Recipe, guided: GuidedStudent, teachers: Teachers, fabric: Fabric) -> None:
    """Changes the modules to what the recipe says of batch norms, devices and memory layout."""
    if recipe.training.sync_batchnorm and fabric.world_size > 1:
        synchronize_batch_norms(guided, teachers)
    for term in guided.objective.all_terms():
        if isinstance(term, FollowingTerm):
            term.gather = gathering_rows(fabric)
    if recipe.training.channels_last:
        for module in (guided, teachers):
            module.to(memory_format=torch.channels_last)
