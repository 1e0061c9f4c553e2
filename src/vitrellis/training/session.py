"""Trains one student into one run directory, and writes down how good it became."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import nn

from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.groups import groupings
from vitrellis.analysis.inference import collect_logits, collect_predictions
from vitrellis.data.loader import EvalLoader, TrainLoader
from vitrellis.data.sources import Source, Split
from vitrellis.recipe import Recipe, effective_lr
from vitrellis.training import build
from vitrellis.training.display import Display, reading
from vitrellis.training.exported import Preprocessing, load_exported, save_model
from vitrellis.training.guided import GuidedStudent, Teacher
from vitrellis.training.run import RunDirectory
from vitrellis.training.store import Store
from vitrellis.training.teachers import TeacherClassifier, load_teacher
from vitrellis.training.terms import build_objective, resolved_loss
from vitrellis.training.trainer import Progress, Trainer


@dataclass(frozen=True)
class Parts:
    """What a run is made of, on its device.

    Attributes:
        recipe: What to do.
        source: The images, with their splits.
        preprocessing: What images go through.
        place: Where this process computes.
        guided: The student with its objective.
        teacher: None where no term needs one.
        loader: Training batches.
    """

    recipe: Recipe
    source: Source
    preprocessing: Preprocessing
    place: build.Place
    guided: GuidedStudent
    teacher: Teacher | None
    loader: TrainLoader

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
    recipe: Recipe, run: RunDirectory, source: Source, fabric: Fabric, console: Console
) -> None:
    """Trains, or goes on training, until `results.json` is written.

    Args:
        recipe: What to do. Its teacher is trained already.
        run: Where to; opened for this recipe.
        source: The images, with their splits.
        fabric: Launched.
        console: Where progress is shown.
    """
    parts = _parts(recipe, run, source, fabric, console)
    store = Store(fabric, run, parts.export)
    steps_per_epoch = parts.loader.steps_per_epoch
    with Display(console, recipe.name, recipe.training.epochs, steps_per_epoch) as display:
        trainer = _trainer(parts, fabric, store, display)
        if trainer.resume():
            at = trainer.progress
            display.start_at(at.epoch, at.step)
            lines = [f"{recipe.name}: continues in epoch {at.epoch + 1} after step {at.step}"]
        else:
            lines = _announcement(parts, fabric)
        console.print("\n".join(lines), highlight=False, soft_wrap=True)
        progress = trainer.fit()
    store.export(trainer.evaluated_model, run.last_model)
    if progress.best_epoch is None:  # without validation images there is nothing to choose by
        store.export(trainer.evaluated_model, run.best_model)
    store.close()
    fabric.barrier()
    if fabric.is_global_zero:
        run.write_results(_results(parts, run, progress))
    fabric.barrier()


def _parts(
    recipe: Recipe, run: RunDirectory, source: Source, fabric: Fabric, console: Console
) -> Parts:
    preprocessing = build.build_preprocessing(recipe, source)
    torch.manual_seed(recipe.seed)
    student = build.build_student(recipe, source, preprocessing)
    teacher = load_teacher(recipe, run, source, preprocessing, fabric)
    objective = build_objective(
        recipe.objective,
        student,
        preprocessing,
        teacher,
        class_counts=source.class_counts,
        deferred=recipe.deferred,
        epochs=recipe.training.epochs,
    )
    guided = GuidedStudent(student, objective, compiled=recipe.training.compile)
    guided.to(fabric.device)
    if recipe.training.channels_last:
        for module in (guided, teacher):
            if module is not None:
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
    return Parts(recipe, source, preprocessing, place, guided, teacher, loader)


def _trainer(parts: Parts, fabric: Fabric, store: Store, display: Display) -> Trainer:
    recipe, guided = parts.recipe, parts.guided
    training = recipe.training
    val = parts.source.val
    return Trainer(
        fabric=fabric,
        guided=guided,
        optimizer=build.build_optimizer(recipe, guided),
        learning_rate=build.build_learning_rate(recipe, parts.loader.steps_per_epoch),
        loader=parts.loader,
        validation=parts.evaluation(val) if val is not None else None,
        teacher=parts.teacher,
        ema=ModelEmaV3(guided.student, decay=training.ema) if training.ema is not None else None,
        store=store,
        display=display,
        seed=recipe.seed,
        epochs=training.epochs,
        accumulate=training.accumulate,
        clip_grad=training.clip_grad,
        eval_every=training.eval_every,
        checkpoint_minutes=training.checkpoint_minutes,
    )


def _announcement(parts: Parts, fabric: Fabric) -> list[str]:
    """What is about to happen, with every derived number resolved."""
    recipe, source, training = parts.recipe, parts.source, parts.recipe.training
    counts = source.class_counts
    splits = ", ".join(f"{len(split):,} {name}" for name, split in source.splits.items())
    parameters = sum(p.numel() for p in parts.guided.student.parameters() if p.requires_grad)
    terms = parts.guided.objective.describe()
    height, width = parts.preprocessing.img_size
    lines = [
        f"{recipe.name}",
        f"  data       {source.name}: {splits} images, {source.num_classes} classes "
        f"({int(counts.min()):,} to {int(counts.max()):,} training images each)",
        *(f"             note: {note}" for note in source.notes),
        f"  model      {recipe.model.name}, {parameters:,} parameters, "
        f"{height} x {width} pixels, seed {recipe.seed}",
        f"  objective  {terms[0]}",
        *(f"             + {term}" for term in terms[1:]),
        *_chosen_loss(recipe, source),
        *_last_phase(recipe),
        f"  optimizer  {recipe.optimizer.name}, lr {effective_lr(recipe):.4g}, "
        f"weight decay {recipe.optimizer.weight_decay:g}",
        f"  training   {training.epochs} epochs of {parts.loader.steps_per_epoch} steps, batch "
        f"{parts.loader.batch_size}, {training.precision}, "
        f"{fabric.world_size} x {fabric.device.type}",
    ]
    if parts.teacher is not None and source.val is not None:
        lines.append(_teacher_accuracy(parts.teacher, parts.evaluation(source.val)))
    return lines


def _chosen_loss(recipe: Recipe, source: Source) -> list[str]:
    """What `loss: auto` has become, and why."""
    labels = recipe.objective.cross_entropy
    if labels.loss != "auto":
        return []
    counts = source.class_counts
    factor = counts.max().item() / counts.min().item()
    loss = resolved_loss(labels, counts)
    return [f"             auto: {loss}, as class sizes differ by a factor of {factor:.3g}"]


def _last_phase(recipe: Recipe) -> list[str]:
    """When the last phase begins, and what of it the terms do not say."""
    if recipe.deferred is None:
        return []
    epochs = recipe.training.epochs
    first = recipe.deferred.first_epoch(epochs) + 1
    shown = recipe.augmentation
    stops = (shown.mixup or shown.cutmix) and not recipe.deferred.mixing
    end = ", images no longer mixed" if stops else ""
    return [f"  deferred   from epoch {first} of {epochs} on{end}"]


def _teacher_accuracy(teacher: Teacher, validation: EvalLoader) -> str:
    """How good the teacher is on validation images, so that a useless one is noticed now."""
    logits, labels = collect_logits(TeacherClassifier(teacher), validation)
    top1 = (logits.argmax(dim=-1) == labels).double().mean().item()
    return f"  teacher    {100 * top1:.1f} % of the validation images right, {teacher.mode} mode"


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
        "best": {"epoch": progress.best_epoch, "val_top1": progress.best_top1},
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
