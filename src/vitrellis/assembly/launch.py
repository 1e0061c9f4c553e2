"""Trains a recipe: first its teachers, then the student; then comes the final evaluation.

A run that exists is resumed, or reported if it is complete. A run of another recipe is refused.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from rich.console import Console
from torch import nn

from vitrellis.assembly.build import build_student, sides_of
from vitrellis.assembly.load_teachers import check_finished_teachers, teacher_folder
from vitrellis.assembly.parts import UserObjects, prepare_parts
from vitrellis.assembly.session import train_student
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.assembly.summary import warning_lines
from vitrellis.assembly.terms import check_trained_heads
from vitrellis.data.duplicates import Duplicates, find_duplicates, is_cut_from_training
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.models import check_takes_images
from vitrellis.objectives import Term
from vitrellis.recipe import (
    Recipe,
    describe,
    differences,
    identity,
    load_recipe,
    recipe_from,
    teacher_recipe,
)
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Trained, load_exported
from vitrellis.runs.results import Results, RunData
from vitrellis.training.display import reading


@dataclass(frozen=True)
class Finished:
    """A complete run.

    Attributes:
        run: The run directory.
        results: The content of `results.json`.
        teachers: The runs of the teachers that were trained for it, by name.
    """

    run: RunDirectory
    results: Results
    teachers: Mapping[str, Finished] = field(default_factory=dict)

    def model(self) -> Trained:
        """The best model, in eval mode, with its class names and preprocessing."""
        return load_exported(self.run.best_model)


def train(
    recipe: Recipe | str,
    *,
    out: Path | str | None = None,
    fresh: bool = False,
    source: Source | None = None,
    console: Console | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    terms: Sequence[Term] = (),
) -> Finished:
    """Trains a recipe to its end, its teachers first if it names some.

    Args:
        recipe: The recipe, or the name of a packaged one.
        out: The run directory; by default `runs/` and the recipe's name.
        fresh: Delete the content of the run directory and start again. The teacher is kept.
        source: Images from Python, in place of `recipe.data.source`.
        console: Where progress is shown; by default nowhere.
        teachers: Modules for the recipe's teachers with `given: true`, by name; a single teacher
            has the name "teacher". Their images are normalised as the student's.
        terms: Loss terms of your own, added to those of the recipe's objective. A term's `needs`
            lists the blocks and the logits that it reads.

    Raises:
        UsageError: If the directory holds the run of another recipe, or the recipe does not fit.
        VitrellisError: If the data is damaged, the loss diverges, or a file cannot be written.
        Interrupted: After SIGTERM or Ctrl-C; the same call resumes the run.
    """
    if isinstance(recipe, str):
        recipe = load_recipe(recipe)
    objects = UserObjects(teachers or {}, terms)
    with (
        process_settings_kept(),
        _open_run(recipe, out, fresh, source, console, terms) as opened,
    ):
        run = opened.run
        if run.results_file.exists():
            opened.console.print(f"{recipe.name}: complete, in {run.path}", highlight=False)
        else:
            train_student(recipe, run, opened.source, opened.fabric, opened.console, objects)
        results = run.read_results()
        for line in warning_lines(results):
            opened.console.print(line, highlight=False, markup=False, soft_wrap=True)
    return Finished(run, results, opened.teachers)


def store_features(
    recipe: Recipe,
    *,
    out: Path | str | None = None,
    source: Source | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Computes and stores the outputs of a recipe's `offline` teachers for all training images.

    Training the recipe does this first, if it has not been done.

    Args:
        recipe: The student's recipe; its teachers are trained first if they have to be.
        out: The run directory of the student; the stores are beside it.
        source: Images from Python, in place of `recipe.data.source`.
        console: Where progress is shown; by default nowhere.

    Returns:
        The folders of the stores.

    Raises:
        UsageError: If no teacher is offline, or for the reasons of `train`.
        VitrellisError: For the reasons of `train`.
    """
    if not any(settings.offline for settings in recipe.all_teachers.values()):
        raise UsageError(
            f"{recipe.name}: none of its teachers is offline. Add teacher.offline=true, here and "
            "for training"
        )
    with process_settings_kept(), _open_run(recipe, out, False, source, console) as opened:
        parts = prepare_parts(
            recipe, opened.run, opened.source, opened.fabric, opened.console, UserObjects()
        )
    return list(parts.stores)


@dataclass(frozen=True)
class _OpenRun:
    """A run directory that is locked and checked, with its teachers trained."""

    run: RunDirectory
    fabric: Fabric
    source: Source
    console: Console
    teachers: dict[str, Finished]


@contextmanager
def _open_run(
    recipe: Recipe,
    out: Path | str | None,
    fresh: bool,
    source: Source | None,
    console: Console | None,
    own_terms: Sequence[Term] = (),
) -> Iterator[_OpenRun]:
    teacher_recipes = {  # a wrong key ends the command here, before anything is written
        name: teacher_recipe(recipe, name)
        for name, settings in recipe.all_teachers.items()
        if settings.recipe is not None
    }
    fabric = _launch(recipe)
    console = console if console is not None and fabric.is_global_zero else Console(quiet=True)
    run = RunDirectory(Path(out) if out is not None else Path("runs") / recipe.name)
    known = None if fresh or recipe.data.on_bad_image == "error" else run.checked_images()
    with reading(console, "looking for bad images") as progress:
        prepared = build_source(recipe, source, known=known, progress=progress)
    duplicates = find_duplicates(prepared)
    notes = duplicates.notes(val_was_cut=is_cut_from_training(prepared))
    prepared = replace(prepared, notes=(*prepared.notes, *notes))
    if not run.results_file.exists():
        # a wrong model ends the command here, before a teacher is trained for it
        student = build_student(recipe, prepared, load_weights=not run.last_checkpoint.exists())
        size = sides_of(recipe.input.img_size)
        check_takes_images(student, recipe.model.name, prepared.channels, size)
        check_trained_heads(recipe, student, own_terms)
        check_finished_teachers(recipe, run)
    with _locked(run, fabric):
        if fabric.is_global_zero:
            _open(run, recipe, teacher_recipes, prepared, duplicates, fresh)
        fabric.barrier()
        finished = {
            name: train(teacher, out=teacher_folder(teacher, run), source=source, console=console)
            for name, teacher in teacher_recipes.items()
        }
        yield _OpenRun(run, fabric, prepared, console, finished)


@contextmanager
def process_settings_kept() -> Iterator[None]:
    """Restores settings of torch after the block.

    These are flush-denormal, the number of threads, the precision of matrix products and the random
    state. They are restored after an error as well.
    """
    threads = torch.get_num_threads()
    flushes_denormal = _flushes_denormal()
    matmul_precision = torch.get_float32_matmul_precision()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        torch.set_flush_denormal(flushes_denormal)
        torch.set_float32_matmul_precision(matmul_precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _flushes_denormal() -> bool:
    """Whether subnormal numbers become zero. Torch has no getter for it."""
    smallest = torch.tensor([2.0**-149], dtype=torch.float32)
    return bool((smallest * 1.0 == 0).all())


def _launch(recipe: Recipe) -> Fabric:
    # computing with subnormal numbers is several times slower; set before the first parallel work
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision(recipe.training.matmul_precision)
    machine = recipe.machine
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    is_parallel = machine.devices > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1
    fabric = Fabric(
        accelerator=machine.accelerator,
        devices=machine.devices,
        # a term that is switched off leaves its projections without a gradient
        strategy=DDPStrategy(find_unused_parameters=True) if is_parallel else "auto",
        precision=recipe.training.precision,
    )
    fabric.launch()
    if recipe.training.sync_batchnorm and fabric.world_size > 1 and fabric.device.type == "cpu":
        raise UsageError(
            "training.sync_batchnorm: torch synchronises batch norms of GPUs only, and this run "
            f"has {fabric.world_size} processes on the CPU. Use machine.devices=1, which has the "
            "statistics of the whole batch, or training.sync_batchnorm=false"
        )
    return fabric


@contextmanager
def _locked(run: RunDirectory, fabric: Fabric) -> Iterator[None]:
    """Prevents two commands from training in one directory; the lock ends with the process."""
    if not fabric.is_global_zero:
        yield
        return
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{run.path}: cannot be a run directory ({error.strerror})") from error
    with run.lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{run.path}: another process is training here. Wait for it, or use another --out"
            ) from error
        yield


def _open(
    run: RunDirectory,
    recipe: Recipe,
    teacher_recipes: Mapping[str, Recipe],
    source: Source,
    duplicates: Duplicates,
    fresh: bool,
) -> None:
    """Makes sure that the directory is new, or holds a run of this recipe on this data."""
    if fresh and run.exists():
        _empty(run)
    if run.imported_file.exists():
        raise UsageError(
            f"{run.path}: holds an imported model, whose training cannot be resumed. Use another "
            f"--out; to start from its weights, model.weights={run.best_model}/model.safetensors"
        )
    if run.exists():
        _check_same(run, recipe, teacher_recipes, source)
        return
    others = [entry.name for entry in run.path.iterdir() if entry != run.lock_file]
    if others:
        raise UsageError(
            f"{run.path}: holds {sorted(others)[0]!r} and is not a run directory. Use another --out"
        )
    data = RunData(
        fingerprint=source.fingerprint(),
        class_names=tuple(source.class_names),
        class_counts=tuple(source.class_counts.tolist()),
        teachers={name: identity(teacher) for name, teacher in teacher_recipes.items()},
        duplicates=duplicates.to_json(),
        checked_images=source.checked_images,
    )
    run.write_data(data)
    atomic_write(run.recipe_file, lambda path: path.write_text(describe(recipe)))


def _check_same(
    run: RunDirectory, recipe: Recipe, teacher_recipes: Mapping[str, Recipe], source: Source
) -> None:
    way_out = "Use --fresh to delete it and start again, or another --out"
    changed = differences(load_recipe(run.recipe_file), recipe)
    if changed:
        lines = "\n  ".join(changed)
        raise UsageError(f"{run.path} holds the run of another recipe:\n  {lines}\n{way_out}")
    data = run.read_data()
    if data.fingerprint != source.fingerprint():
        raise UsageError(
            f"{run.path} was trained on other images: {sum(data.class_counts or ())} images in "
            f"{len(data.class_names)} classes then, {len(source.train)} images in "
            f"{source.num_classes} classes now, or other files. {way_out}"
        )
    for name, before in data.teachers.items():
        changed = differences(recipe_from(before), teacher_recipes[name])
        if changed:
            lines = "\n  ".join(changed)
            raise UsageError(
                f"{run.path} was trained with another teacher; changes in "
                f"{teacher_recipes[name].name}:\n"
                f"  {lines}\n{way_out}"
            )


def _empty(run: RunDirectory) -> None:
    """Deletes the content of a run directory, except its lock."""
    for entry in run.path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry != run.lock_file:
            entry.unlink()
