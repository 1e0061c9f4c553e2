"""Trains one student into one run directory, and writes its final results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lightning.fabric import Fabric
from rich.console import Console
from timm.utils import ModelEmaV3

from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.groups import groupings
from vitrellis.analysis.inference import Gather, collect_from_all
from vitrellis.assembly import optimization
from vitrellis.assembly.parts import Parts, UserObjects, prepare_parts
from vitrellis.assembly.processes import Strategy
from vitrellis.assembly.sharding import check_can_be_sharded
from vitrellis.assembly.summary import announcement
from vitrellis.data.bad_images import naming_all_bad_images
from vitrellis.data.sources import Source, Split
from vitrellis.recipe import Recipe
from vitrellis.runs.checkpoints import RunWriter
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import load_exported
from vitrellis.runs.results import CheckpointFigures, EpochRow, Results, SplitFigures
from vitrellis.training.display import Display
from vitrellis.training.gathering import failing_together, gathering
from vitrellis.training.position import TrainingProgress
from vitrellis.training.trainer import Trainer
from vitrellis.training.whole_student import WholeStudent


def train_student(
    recipe: Recipe,
    run: RunDirectory,
    source: Source,
    fabric: Fabric,
    console: Console,
    user_objects: UserObjects,
    trained_for_it: Mapping[str, RunDirectory],
) -> None:
    """Trains a student, or resumes its training, until `results.json` is written.

    Args:
        recipe: The recipe, whose teachers are trained already.
        run: The run directory, opened for this recipe.
        source: The images, with their splits.
        fabric: Fabric, launched.
        console: The console that shows the progress.
        user_objects: Teachers and terms from Python.
        trained_for_it: The complete runs of the teachers that have a recipe, by name.
    """
    parts = prepare_parts(recipe, run, source, fabric, console, user_objects, trained_for_it)
    writer = RunWriter(fabric, run, parts.export)
    begins = not run.last_checkpoint.exists()
    lines = announcement(parts, fabric) if begins else []  # before the student is sharded
    steps_per_epoch = parts.loader.steps_per_epoch
    with Display(console, recipe.name, recipe.training.epochs, steps_per_epoch) as display:
        trainer = build_trainer(parts, fabric, writer, display, user_objects.on_epoch_end)
        if _is_resumed(trainer, fabric, recipe.machine.strategy):
            at = trainer.progress
            display.start_at(at.epoch, at.step)
            lines = [f"{recipe.name}: continues in epoch {at.epoch + 1} after step {at.step}"]
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
        with naming_all_bad_images(parts.source):
            progress = trainer.fit()
    if progress.epoch < recipe.training.epochs and progress.best_epoch is not None:
        console.print(
            f"{recipe.name}: ended after epoch {progress.epoch} of {recipe.training.epochs}, as "
            f"none was better since epoch {progress.best_epoch + 1} "
            "(training.early_stopping_patience)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    writer.save_last_model(
        trainer.whole_student(),
        trainer.averaged_student,
        is_best=progress.best_epoch is None,  # without validation images, the last is the best one
    )
    fabric.barrier()
    results = _results(parts, run, progress, gathering(fabric))
    if fabric.is_global_zero:
        writer.check_still_there()
        run.write_results(results)
    fabric.barrier()


def _is_resumed(trainer: Trainer, fabric: Fabric, strategy: Strategy) -> bool:
    """Whether there was a checkpoint to resume; if it is damaged, the first process says so."""
    if strategy == "fsdp":  # which reads it with operations of all processes
        return trainer.resume()
    with failing_together(gathering(fabric)):
        return trainer.resume()


def build_trainer(
    parts: Parts,
    fabric: Fabric,
    writer: RunWriter,
    display: Display,
    on_epoch_end: Callable[[EpochRow], object] | None,
) -> Trainer:
    """The trainer of a run.

    Args:
        parts: The parts of the run.
        fabric: Fabric, launched.
        writer: Writes the run's files.
        display: Shows the progress.
        on_epoch_end: Called with the figures of each epoch.
    """
    recipe, guided = parts.recipe, parts.guided
    training = recipe.training
    val = parts.source.val
    ema = _average(parts)
    whole = _whole_student(parts, fabric)
    module = fabric.setup_module(guided)  # replaces the parameters of a student that is sharded
    return Trainer(
        fabric=fabric,
        guided=module,
        optimizer=optimization.build_optimizer(recipe, guided),
        gradient=optimization.build_gradient(recipe, guided, parts.teachers),
        learning_rate=optimization.build_learning_rate(recipe, parts.loader),
        keep_rate=optimization.build_keep_rate(recipe, parts.loader),
        loader=parts.loader,
        validation=parts.evaluation(val) if val is not None else None,
        teachers=parts.teachers,
        ema=ema,
        whole=whole,
        writer=writer,
        display=display,
        seed=recipe.seed,
        epochs=training.epochs,
        accumulate=training.accumulate,
        clip_grad=training.clip_grad,
        eval_every=training.eval_every,
        patience=training.early_stopping_patience,
        on_epoch_end=on_epoch_end,
        select_by="val_top1" if training.select_by == "top1" else "val_balanced",
        checkpoint_minutes=training.checkpoint_minutes,
    )


def _average(parts: Parts) -> ModelEmaV3 | None:
    """The moving average of the student's weights, if the recipe asks for one."""
    training = parts.recipe.training
    if training.ema is None:
        return None
    return ModelEmaV3(parts.guided.student, decay=training.ema, use_warmup=training.ema_warmup)


def _whole_student(parts: Parts, fabric: Fabric) -> WholeStudent | None:
    """The copy of a student that is going to be sharded; None if it stays whole."""
    if parts.recipe.machine.strategy == "ddp" or fabric.world_size == 1:
        return None
    check_can_be_sharded(parts.recipe, parts.guided.student, parts.guided.objective)
    return WholeStudent(parts.guided.student)


def _results(
    parts: Parts, run: RunDirectory, progress: TrainingProgress, gather: Gather
) -> Results:
    """The final figures. Only here are the test images looked at, after every choice was made."""
    recipe = parts.recipe
    images = progress.epoch * parts.loader.images_per_epoch
    test = parts.source.test
    judged = parts.source.val if test is None else test
    best_model = None if judged is None else _breakdown(parts, run.best_model, judged, gather)
    best_row = next((row for row in run.read_metrics() if row.epoch == progress.best_epoch), None)
    best = CheckpointFigures(
        epoch=progress.best_epoch,
        val_top1=progress.best_top1,
        val_balanced=None if best_row is None else best_row.val_balanced,
        test=None if test is None else _split_figures(best_model, run.best_model),
    )
    last_model = None if test is None else _breakdown(parts, run.last_model, test, gather)
    last = CheckpointFigures(
        epoch=progress.epoch - 1, test=_split_figures(last_model, run.last_model)
    )
    return Results(
        recipe=recipe.name,
        model=recipe.model.name,
        parameters=sum(p.numel() for p in parts.guided.student.parameters()),
        seed=recipe.seed,
        epochs=progress.epoch,
        seconds=progress.seconds,
        images_per_second=images / progress.seconds if progress.seconds > 0 else None,
        best=best,
        last=last,
        without_ema=_without_ema(parts, run, progress.epoch - 1, gather),
        select_by=recipe.training.select_by,
        warnings=() if best_model is None else tuple(best_model.warnings),
    )


def _without_ema(
    parts: Parts, run: RunDirectory, epoch: int, gather: Gather
) -> CheckpointFigures | None:
    """The figures of the last weights, where those of `last` are of their moving average."""
    if parts.recipe.training.ema is None:
        return None
    folder, source = run.last_model_without_ema, parts.source
    val = None if source.val is None else _breakdown(parts, folder, source.val, gather).overall
    test = None if source.test is None else _breakdown(parts, folder, source.test, gather)
    return CheckpointFigures(
        epoch=epoch,
        val_top1=None if val is None else val.top1,
        val_balanced=None if val is None else val.balanced_accuracy,
        test=_split_figures(test, folder),
    )


def _breakdown(parts: Parts, folder: Path, split: Split, gather: Gather) -> Breakdown:
    """The figures of an exported model on a split, of which each process evaluates a part."""
    source = parts.source
    counts = source.class_counts.tolist()
    images = parts.evaluation(split)
    trained = load_exported(folder)
    return Breakdown.of(
        collect_from_all(trained.model.to(images.device), images, gather),
        trained.class_names,
        class_counts=counts,
        groupings=groupings(counts, source.name),
    )


def _split_figures(breakdown: Breakdown | None, folder: Path) -> SplitFigures | None:
    return None if breakdown is None else SplitFigures.from_json(breakdown.to_json(), folder)
