"""Trains a recipe: first its teachers, then the student; then comes the final evaluation.

A run that exists is resumed, or reported if it is complete. A run of another recipe is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import nn

from vitrellis.assembly.images_of_run import as_begun, with_images_found
from vitrellis.assembly.parts import UserObjects, prepare_parts
from vitrellis.assembly.processes import (
    check_same_files,
    launched_fabric,
    others_may_end,
    others_wait,
)
from vitrellis.assembly.python_arguments import check_kinds, recipe_of
from vitrellis.assembly.rehearsal import PlannedTeacher, rehearse, source_of_teacher
from vitrellis.assembly.run_folder import (
    Beginning,
    HoldsAnotherRun,
    check_is_ours,
    default_path,
    is_being_emptied,
    locked,
    open_directory,
    run_data,
)
from vitrellis.assembly.session import train_student
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.assembly.summary import warning_lines
from vitrellis.assembly.trained_teachers import note_on_other_images, teacher_run
from vitrellis.data.bad_images import Sharing
from vitrellis.data.duplicates import find_duplicates, is_cut_from_training
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.objectives import Term
from vitrellis.recipe import Recipe, check_teachers_end, identity, teacher_recipe
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import Trained, load_exported
from vitrellis.runs.results import EpochRow, Results
from vitrellis.training.display import reading
from vitrellis.training.gathering import failing_together, gathering


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
    recipe: Recipe | str | Path,
    *,
    out: Path | str | None = None,
    fresh: bool = False,
    source: Source | None = None,
    console: Console | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    terms: Sequence[Term] = (),
    on_epoch_end: Callable[[EpochRow], object] | None = None,
) -> Finished:
    """Trains a recipe to its end, its teachers first if it names some.

    Args:
        recipe: The recipe, the name of a packaged one, or the path of a file.
        out: The run directory; by default `runs/` and the recipe's name.
        fresh: Delete the files of the run and start again. Other files there, and the teacher,
            are kept.
        source: Images from Python, in place of `recipe.data.source`.
        console: Where progress is shown; by default nowhere.
        teachers: Modules for the recipe's teachers with `given: true`, by name; a single teacher
            has the name "teacher". Their images are normalised as the student's.
        terms: Loss terms of your own, added to those of the recipe's objective. A term's `needs`
            lists the blocks and the logits that it reads.
        on_epoch_end: Called after each epoch of the student with its figures, when they are on
            disk; in every process. What it raises ends the training, and the same call resumes it
            (on several devices, from the last checkpoint).

    Raises:
        UsageError: If the directory holds the run of another recipe, the recipe does not fit, or an
            argument is of another kind.
        VitrellisError: If the data is damaged, the loss diverges, or a file cannot be written.
        Interrupted: After SIGTERM or Ctrl-C; the same call resumes the run.
    """
    recipe = recipe_of(recipe)
    check_kinds(
        out=out,
        source=source,
        console=console,
        teachers=teachers,
        terms=terms,
        on_epoch_end=on_epoch_end,
    )
    objects = UserObjects(teachers or {}, terms, on_epoch_end)
    with (
        process_settings_kept(),
        _open_run(recipe, out, fresh, source, console, objects) as opened,
    ):
        return _finish(opened, objects)


def _train_teachers(
    run: RunDirectory,
    teachers: Mapping[str, PlannedTeacher],
    source: Source | None,
    console: Console,
) -> dict[str, Finished]:
    """Trains the teachers of a run. A complete run needs none that was deleted: it has a copy."""
    is_complete = run.results_file.exists()
    return {
        name: _train_teacher(planned, source, console)
        for name, planned in teachers.items()
        if not is_complete or planned.run.results_file.exists()
    }


def _train_teacher(teacher: PlannedTeacher, source: Source | None, console: Console) -> Finished:
    """Trains a teacher, or waits for the process that does."""
    objects = UserObjects()
    with (
        process_settings_kept(),
        _open_run(
            teacher.recipe,
            teacher.run.path,
            False,
            source,
            console,
            objects,
            prepared=teacher.source,
            waits_for="trains this teacher",
        ) as opened,
    ):
        return _finish(opened, objects)


def _finish(opened: _OpenRun, objects: UserObjects) -> Finished:
    """Trains a run to its end, if it is not complete."""
    recipe, run = opened.recipe, opened.run
    if run.results_file.exists():
        complete = f"{recipe.name}: complete, in {run.path}"
        opened.console.print(complete, highlight=False, markup=False, soft_wrap=True)
    else:
        with others_may_end(run):
            train_student(
                recipe,
                run,
                opened.source,
                opened.fabric,
                opened.console,
                objects,
                {name: finished.run for name, finished in opened.teachers.items()},
            )
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
    objects = UserObjects()
    try:
        with (
            process_settings_kept(),
            _open_run(recipe, out, False, source, console, objects) as opened,
        ):
            parts = prepare_parts(
                opened.recipe,
                opened.run,
                opened.source,
                opened.fabric,
                opened.console,
                objects,
                {name: finished.run for name, finished in opened.teachers.items()},
            )
    except HoldsAnotherRun as error:
        raise error.without_fresh() from None
    return list(parts.stores)


@dataclass(frozen=True)
class _OpenRun:
    """A run directory that is locked and checked, with its teachers trained."""

    recipe: Recipe
    run: RunDirectory
    fabric: Fabric
    source: Source
    console: Console
    teachers: dict[str, Finished]


def _teacher_recipes(recipe: Recipe) -> dict[str, Recipe]:
    return {
        name: teacher_recipe(recipe, name)
        for name, settings in recipe.all_teachers.items()
        if settings.recipe is not None
    }


@contextmanager
def _open_run(
    recipe: Recipe,
    out: Path | str | None,
    fresh: bool,
    source: Source | None,
    console: Console | None,
    user_objects: UserObjects,
    *,
    prepared: Source | None = None,
    waits_for: str | None = None,
) -> Iterator[_OpenRun]:
    check_teachers_end(recipe)
    _teacher_recipes(recipe)  # a wrong key ends the command here, before anything is written
    fabric = launch_machine(recipe)
    console = console if console is not None and fabric.is_global_zero else Console(quiet=True)
    world_size = fabric.world_size
    gather = gathering(fabric)
    run = RunDirectory(default_path(recipe, out))
    with others_may_end(run), failing_together(gather):
        check_is_ours(run)
        reads = not fresh and not any(gather(is_being_emptied(run)))
        searches = prepared is None and source is None and reads
        found = with_images_found(recipe, run, "data.root=FOLDER") if searches else recipe
        if prepared is None:
            known = run.checked_images() if reads and recipe.data.on_bad_image != "error" else None
            with reading(console, "looking for bad images") as progress:
                sharing = Sharing(fabric.global_rank, world_size, gather)
                prepared = build_source(
                    found, source, known=known, progress=progress, sharing=sharing
                )
        recipe = as_begun(recipe, run, prepared) if reads else recipe
        teacher_recipes = _teacher_recipes(recipe)
        images_of = {
            name: source_of_teacher(recipe, name, teacher, prepared, source, found.data.root)
            for name, teacher in teacher_recipes.items()
        }
        duplicates = find_duplicates(prepared)
        notes = duplicates.notes(val_was_cut=is_cut_from_training(prepared))
        prepared = replace(prepared, notes=(*prepared.notes, *notes))
        planned = {name: _planned(r, images_of[name], run) for name, r in teacher_recipes.items()}
        rehearse(
            recipe, run, prepared, planned, user_objects, fresh=not reads, world_size=world_size
        )
    identities = {name: identity(teacher) for name, teacher in teacher_recipes.items()}
    data = run_data(prepared, identities, duplicates.to_json())
    begins = Beginning(recipe, teacher_recipes, prepared, data)
    with ExitStack() as lock:
        with others_may_end(run), failing_together(gather):
            with others_wait(fabric):
                if fabric.is_global_zero:
                    lock.enter_context(locked(run, console, waits_for=waits_for))
            lines = open_directory(run, begins, fresh=fresh) if fabric.is_global_zero else []
        others = (note_on_other_images(p.recipe, p.source, p.run) for p in planned.values())
        for line in [*lines, *(note for note in others if note)]:
            console.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
        check_same_files(fabric, run, data.fingerprint or "")
        fabric.barrier()
        finished = _train_teachers(run, planned, source, console)
        yield _OpenRun(recipe, run, fabric, prepared, console, finished)


def _planned(recipe: Recipe, images: Source, run: RunDirectory) -> PlannedTeacher:
    planned = PlannedTeacher(recipe, images, teacher_run(recipe, images, run))
    check_is_ours(planned.run)
    return planned


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


_MOST_PROCESSES = 8
"""Processes on the CPU that can be had on any machine, to try out what several devices do."""


def _check_machine(accelerator: str, devices: int) -> None:
    """Refuses devices that are not there, which Fabric does not do in the recipe's words.

    Raises:
        UsageError: Naming the key.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = counts.get(accelerator)
    if count == 0:
        there = " or ".join(["cpu", *(kind for kind, number in counts.items() if number)])
        raise UsageError(
            f"machine.accelerator: {accelerator}, but torch finds no such device here. Use "
            f"{there}, or auto, which takes a GPU if there is one"
        )
    if count is not None and devices > count:
        raise UsageError(f"machine.devices: {devices}, but there are {count} of {accelerator} here")
    processors = os.cpu_count() or 1
    if not any(counts.values()) and devices > max(_MOST_PROCESSES, processors):
        raise UsageError(
            f"machine.devices: {devices} processes, but this machine has {processors} "
            "processors. Use at most one for each"
        )


def launch_machine(recipe: Recipe) -> Fabric:
    """Fabric with the devices of a recipe; torch is set as the recipe wants it."""
    # computing with subnormal numbers is several times slower; set before the first parallel work
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision(recipe.training.matmul_precision)
    machine = recipe.machine
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    _check_machine(machine.accelerator, machine.devices)
    fabric = launched_fabric(
        machine.accelerator, machine.devices, recipe.training.precision, machine.strategy
    )
    if recipe.training.sync_batchnorm and fabric.world_size > 1 and fabric.device.type == "cpu":
        raise UsageError(
            "training.sync_batchnorm: torch synchronises batch norms of GPUs only, and this run "
            f"has {fabric.world_size} processes on the CPU. Use machine.devices=1, which has the "
            "statistics of the whole batch, or training.sync_batchnorm=false"
        )
    return fabric
