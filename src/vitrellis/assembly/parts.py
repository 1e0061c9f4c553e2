"""All that a run is made of, built from its recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import nn

from vitrellis.assembly import build
from vitrellis.assembly.load_teachers import load_teachers, open_precomputed
from vitrellis.assembly.terms import build_objective
from vitrellis.data.loader import EvalLoader, TrainLoader
from vitrellis.data.sources import Source, Split
from vitrellis.errors import UsageError
from vitrellis.objectives import Term
from vitrellis.recipe import Recipe
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, save_model
from vitrellis.teachers.teachers import Teachers
from vitrellis.training.display import reading
from vitrellis.training.guided import GuidedStudent


@dataclass(frozen=True)
class UserObjects:
    """What a recipe cannot say, and comes from Python.

    Attributes:
        teachers: Modules by the names that the recipe gives them.
        terms: Added to those of the recipe's objective.
    """

    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    terms: Sequence[Term] = ()


@dataclass(frozen=True)
class Parts:
    """What a run is made of, on its device.

    Attributes:
        recipe: What to do.
        source: The images, with their splits.
        preprocessing: What images go through.
        place: Where this process computes.
        guided: The student with its objective.
        teachers: Its teachers.
        loader: Training batches.
        stores: Folders of the answers of teachers that were asked offline.
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
        return build.build_eval_loader(
            self.recipe, split, self.preprocessing, place if place is not None else self.place
        )

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes a student in timm's local format."""
        save_model(
            model,
            folder,
            architecture=self.recipe.model.name,
            num_classes=self.source.num_classes,
            model_args=self.recipe.model.arguments,
            class_names=self.source.class_names,
            preprocessing=self.preprocessing,
        )


def prepare_parts(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    fabric: Fabric,
    console: Console,
    given: UserObjects,
) -> Parts:
    """Builds all that a run is made of; what teachers are to be asked offline, they are asked.

    Args: as of `train_student`.
    """
    if recipe.objective.paco is not None and fabric.world_size > 1:
        raise UsageError(
            f"objective.paco: keeps one queue, and {fabric.world_size} devices would each fill "
            "their own. Use machine.devices=1"
        )
    preprocessing = build.build_preprocessing(recipe, source)
    torch.manual_seed(recipe.seed)
    teachers = load_teachers(recipe, run, source, preprocessing, fabric, given.teachers)
    torch.manual_seed(recipe.seed)  # again: a teacher that is there already draws less
    student = build.build_student(recipe, source, preprocessing)
    objective = build_objective(
        recipe,
        student,
        preprocessing,
        teachers,
        class_counts=source.class_counts,
        own_terms=given.terms,
    )
    guided = GuidedStudent(student, objective, compiled=recipe.training.compile)
    guided.to(fabric.device)
    if recipe.training.channels_last:
        for module in (guided, teachers):
            module.to(memory_format=torch.channels_last)
    workers = recipe.machine.workers
    place = build.Place(
        fabric.device,
        fabric.global_rank,
        fabric.world_size,
        min(8, os.cpu_count() or 1) if workers == "auto" else workers,
    )
    with reading(console) as progress:
        loader = build.build_train_loader(recipe, source, preprocessing, place, progress)
    with reading(console, "asking the teacher") as progress:
        stores = open_precomputed(
            recipe,
            run,
            source,
            preprocessing,
            teachers,
            objective,
            loader,
            place,
            fabric,
            progress,
        )
    return Parts(recipe, source, preprocessing, place, guided, teachers, loader, tuple(stores))
