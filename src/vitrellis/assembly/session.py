"""Trains one student into one run directory, and writes down how good it became."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import nn

from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.groups import groupings
from vitrellis.analysis.inference import collect_predictions
from vitrellis.assembly import build
from vitrellis.assembly.summary import announcement
from vitrellis.assembly.teachers import load_faculty, open_stores
from vitrellis.assembly.terms import build_objective
from vitrellis.data.loader import EvalLoader, TrainLoader
from vitrellis.data.sources import Source, Split
from vitrellis.errors import UsageError
from vitrellis.objectives import Term
from vitrellis.recipe import Recipe
from vitrellis.runs.checkpoints import Store
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Preprocessing, load_exported, save_model
from vitrellis.teachers.teacher import Faculty
from vitrellis.training.display import Display, reading
from vitrellis.training.guided import GuidedStudent
from vitrellis.training.trainer import Progress, Trainer


@dataclass(frozen=True)
class Given:
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
        faculty: Its teachers.
        loader: Training batches.
        stores: Folders of the answers of teachers that were asked offline.
    """

    recipe: Recipe
    source: Source
    preprocessing: Preprocessing
    place: build.Place
    guided: GuidedStudent
    faculty: Faculty
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


def train_student(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    fabric: Fabric,
    console: Console,
    given: Given,
) -> None:
    """Trains, or goes on training, until `results.json` is written.

    Args:
        recipe: What to do. Its teacher is trained already.
        run: Where to; opened for this recipe.
        source: The images, with their splits.
        fabric: Launched.
        console: Where progress is shown.
        given: What comes from Python.
    """
    parts = prepare_parts(recipe, run, source, fabric, console, given)
    store = Store(fabric, run, parts.export)
    steps_per_epoch = parts.loader.steps_per_epoch
    with Display(console, recipe.name, recipe.training.epochs, steps_per_epoch) as display:
        trainer = _trainer(parts, fabric, store, display)
        if trainer.resume():
            at = trainer.progress
            display.start_at(at.epoch, at.step)
            lines = [f"{recipe.name}: continues in epoch {at.epoch + 1} after step {at.step}"]
        else:
            lines = announcement(parts, fabric)
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
        progress = trainer.fit()
    store.export(trainer.evaluated_model, run.last_model)
    if progress.best_epoch is None:  # without validation images there is nothing to choose by
        store.export(trainer.evaluated_model, run.best_model)
    store.close()
    fabric.barrier()
    if fabric.is_global_zero:
        run.write_results(_results(parts, run, progress))
    fabric.barrier()


def prepare_parts(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    fabric: Fabric,
    console: Console,
    given: Given,
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
    faculty = load_faculty(recipe, run, source, preprocessing, fabric, given.teachers)
    torch.manual_seed(recipe.seed)  # again: a teacher that is there already draws less
    student = build.build_student(recipe, source, preprocessing)
    objective = build_objective(
        recipe,
        student,
        preprocessing,
        faculty,
        class_counts=source.class_counts,
        own_terms=given.terms,
    )
    guided = GuidedStudent(student, objective, compiled=recipe.training.compile)
    guided.to(fabric.device)
    if recipe.training.channels_last:
        for module in (guided, faculty):
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
        stores = open_stores(
            recipe,
            run,
            source,
            preprocessing,
            faculty,
            objective,
            loader,
            place,
            fabric,
            progress,
        )
    return Parts(recipe, source, preprocessing, place, guided, faculty, loader, tuple(stores))


def _trainer(parts: Parts, fabric: Fabric, store: Store, display: Display) -> Trainer:
    recipe, guided = parts.recipe, parts.guided
    training = recipe.training
    val = parts.source.val
    return Trainer(
        fabric=fabric,
        guided=guided,
        optimizer=build.build_optimizer(recipe, guided),
        gradient=build.build_gradient(recipe, guided, parts.faculty),
        learning_rate=build.build_learning_rate(recipe, parts.loader.steps_per_epoch),
        loader=parts.loader,
        validation=parts.evaluation(val) if val is not None else None,
        faculty=parts.faculty,
        ema=ModelEmaV3(guided.student, decay=training.ema) if training.ema is not None else None,
        store=store,
        display=display,
        seed=recipe.seed,
        epochs=training.epochs,
        accumulate=training.accumulate,
        clip_grad=training.clip_grad,
        eval_every=training.eval_every,
        select_by="val_top1" if training.select_by == "top1" else "val_balanced",
        checkpoint_minutes=training.checkpoint_minutes,
    )


def _best(run: RunDirectory, progress: Progress) -> dict[str, Any]:
    """The best epoch, with its validation figures if there are any."""
    rows = [row for row in run.read_metrics() if row["epoch"] == progress.best_epoch]
    names = ("val_top1", "val_balanced")
    figures = {name: row[name] for row in rows for name in names if name in row}
    return {"epoch": progress.best_epoch, "val_top1": progress.best_top1} | figures


def _results(parts: Parts, run: RunDirectory, progress: Progress) -> dict[str, Any]:
    """The final figures. The test images are looked at here, and chose nothing."""
    recipe = parts.recipe
    images = recipe.training.epochs * parts.loader.images_per_epoch
    results: dict[str, Any] = {
        "recipe": recipe.name,
        "model": recipe.model.name,
        "parameters": sum(p.numel() for p in parts.guided.student.parameters()),
        "seed": recipe.seed,
        "epochs": recipe.training.epochs,
        "seconds": progress.seconds,
        "images_per_second": images / progress.seconds if progress.seconds > 0 else None,
        "select_by": recipe.training.select_by,
        "best": _best(run, progress),
        "last": {"epoch": recipe.training.epochs - 1},
    }
    if parts.source.test is not None:
        counts = parts.source.class_counts.tolist()
        test = parts.evaluation(parts.source.test, replace(parts.place, rank=0, world_size=1))
        for name, folder in (("best", run.best_model), ("last", run.last_model)):
            trained = load_exported(folder)
            results[name]["test"] = Breakdown.of(
                collect_predictions(trained.model.to(test.device), test),
                trained.class_names,
                class_counts=counts,
                groupings=groupings(counts, parts.source.name),
            ).to_dict()
    return results
