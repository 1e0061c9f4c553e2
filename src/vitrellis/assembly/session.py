"""Trains one student into one run directory, and writes down how good it became."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.fabric import Fabric
from rich.console import Console
from timm.utils import ModelEmaV3

from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.groups import groupings
from vitrellis.analysis.inference import collect_predictions
from vitrellis.assembly import build
from vitrellis.assembly.parts import Parts, UserObjects, prepare_parts
from vitrellis.assembly.summary import announcement
from vitrellis.data.sources import Source
from vitrellis.recipe import Recipe
from vitrellis.runs.checkpoints import Store
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import load_exported
from vitrellis.training.display import Display
from vitrellis.training.trainer import Progress, Trainer


def train_student(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    fabric: Fabric,
    console: Console,
    given: UserObjects,
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


def _trainer(parts: Parts, fabric: Fabric, store: Store, display: Display) -> Trainer:
    recipe, guided = parts.recipe, parts.guided
    training = recipe.training
    val = parts.source.val
    return Trainer(
        fabric=fabric,
        guided=guided,
        optimizer=build.build_optimizer(recipe, guided),
        gradient=build.build_gradient(recipe, guided, parts.teachers),
        learning_rate=build.build_learning_rate(recipe, parts.loader.steps_per_epoch),
        loader=parts.loader,
        validation=parts.evaluation(val) if val is not None else None,
        teachers=parts.teachers,
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
