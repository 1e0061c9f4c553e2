"""Opens the directory of a run: new, begun, or of the same recipe and images; anything else stays.

The files of a start are written in this order: the lock, the marker, `data.json`, `recipe.yaml`. A
process that is killed between any two leaves a directory in which the same command begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from vitrellis.data.loader import VIEWS_VERSION
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, describe, differences, load_recipe, recipe_from
from vitrellis.runs import marker
from vitrellis.runs.checksums import check_text, write_sealed_text
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.places import check_folder
from vitrellis.runs.provenance import record_start
from vitrellis.runs.results import RunData


class HoldsAnotherRun(UsageError):
    """The directory holds a run of another recipe, or of other images.

    Args:
        run: The directory.
        what: What it holds.
    """

    WAY_OUT = "Use --fresh (in Python: fresh=True) to delete it and start again, or another --out"

    def __init__(self, run: RunDirectory, what: str) -> None:
        super().__init__(f"{what}\n{self.WAY_OUT}")
        self.run = run
        self.what = what

    def without_fresh(self) -> UsageError:
        """The same error for a command that has no `--fresh`."""
        return UsageError(f"{self.what}\nUse another --out, or delete {self.run.path}")


@dataclass(frozen=True)
class Beginning:
    """What a run begins with, and is compared with when it goes on.

    Attributes:
        recipe: The recipe.
        teacher_recipes: The recipes of the teachers that are trained for it, by name.
        source: The images.
        data: The content of `data.json`.
    """

    recipe: Recipe
    teacher_recipes: Mapping[str, Recipe]
    source: Source
    data: RunData


def check_is_ours(run: RunDirectory) -> None:
    """Makes sure that the directory is missing, empty or a run. Nothing is written.

    Raises:
        UsageError: If it is anything else.
        VitrellisError: If its marker is damaged, or of a later version.
    """
    path = run.path
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{path}: the name is not UTF-8, and weights could not be written there. Use another "
            "--out"
        ) from error
    check_folder(path)
    if not path.exists():
        return
    if marker.is_run(run) or marker.is_unused(run):
        return
    first = sorted(entry.name for entry in path.iterdir() if entry != run.lock_file)[0]
    raise UsageError(
        f"{path}: holds {first!r} and is not a run directory, so nothing in it was changed. Use "
        "another --out"
    )


def is_being_emptied(run: RunDirectory) -> bool:
    """Whether a --fresh has begun to delete what is in the directory, so that nothing is read.

    It was killed; or, without the lock, it may be at work, and its run is there once it ends.

    Raises:
        VitrellisError: If its marker is damaged, or of a later version.
    """
    found = marker.read_marker(run)
    return found is not None and found.is_being_emptied


@contextmanager
def locked(run: RunDirectory, console: Console, *, waits_for: str | None = None) -> Iterator[None]:
    """Prevents two commands from writing into one directory; the lock ends with the process.

    Args:
        run: The directory, which is made if it is missing.
        console: The console that says what is waited for.
        waits_for: What another process that has the lock does, in words, to wait for it; by default
            the lock is refused.

    Raises:
        UsageError: If the directory cannot be made, or another process trains there.
    """
    lock = FileLock(run.lock_file, thread_local=False)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        if waits_for is None:
            raise UsageError(
                f"{run.path}: another process is training here. Wait for it, or use another --out"
            ) from error
        console.print(
            f"{run.path}: another process {waits_for}; waiting until it ends",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        lock.acquire()
    except OSError as error:
        raise UsageError(f"{run.path}: cannot be a run directory ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def open_directory(run: RunDirectory, new: Beginning, *, fresh: bool) -> list[str]:
    """Makes sure that the directory holds the beginning of this run, or this run.

    Args:
        run: The directory, locked and checked by `check_is_ours`.
        new: The run that is to be trained.
        fresh: Whether to delete a run that is there.

    Returns:
        Notes for the user, one sentence each.

    Raises:
        HoldsAnotherRun: If it is the run of another recipe, or of other images.
        UsageError: If the run cannot be resumed at all.
        VitrellisError: If a file of it is damaged.
    """
    is_run = marker.read_marker(run) is not None or run.exists()
    notes = []
    fresh = fresh or is_being_emptied(run)  # an earlier --fresh was killed
    if is_run and not fresh:
        reason = _reason_to_begin_anew(run, new)
        if reason is None:
            _mark(run)
            marker.delete_leftovers(run)
            if not run.results_file.exists():
                record_start(run.provenance_file)
            return _notes_on_views(run)
        notes, fresh = [reason] if reason else [], True
    if is_run and fresh:
        marker.empty(run)
    others = marker.other_files(run)
    if others:
        notes.append(
            f"{run.path}: kept {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}, "
            "which training did not write"
        )
    marker.write_marker(run)
    run.write_data(new.data)
    write_sealed_text(run.recipe_file, describe(new.recipe))
    record_start(run.provenance_file)
    return notes


def _notes_on_views(run: RunDirectory) -> list[str]:
    """A note on a run that goes on with images that are augmented otherwise than it began."""
    if run.results_file.exists() or run.read_data().views_version == VIEWS_VERSION:
        return []
    return [
        f"{run.path}: was begun by an earlier version, which cut and resized training images "
        "otherwise, and goes on with the crops of this one. Its result is that of neither; to "
        "repeat it, use --fresh or another --out"
    ]


def _mark(run: RunDirectory) -> None:
    """Marks the run of an earlier version."""
    if marker.read_marker(run) is None:
        marker.write_marker(run, marker.Marker(has_checksums=False))


def _reason_to_begin_anew(run: RunDirectory, new: Beginning) -> str | None:
    """A sentence, possibly empty, if the run has to begin anew and loses nothing; None if not.

    Raises:
        HoldsAnotherRun: If something would be lost.
        UsageError: If the run cannot be resumed.
    """
    if not run.exists():
        if marker.has_only_begun(run):
            return ""
        raise HoldsAnotherRun(
            run, f"{run.path}: {run.recipe_file.name} is missing, so the run cannot be resumed"
        )
    if run.imported_file.exists():
        raise UsageError(
            f"{run.path}: holds an imported or pruned model, which has no training to resume. "
            f"Use another --out; to start from its weights, init.weights={run.path}"
        )
    if run.has_progress():
        _check_same(run, new)
        return None
    try:
        _check_same(run, new)
    except HoldsAnotherRun as error:
        return f"{error.what}\nNothing had been trained in it, so it begins anew"
    return None


def _check_same(run: RunDirectory, new: Beginning) -> None:
    """Makes sure that the run is of this recipe, with these teachers, on these images."""
    check_text(run.recipe_file)
    before = load_recipe(run.recipe_file)
    changed = differences(before, new.recipe)
    is_moved = all(line.startswith("data.root: ") for line in changed)  # other images, or the same
    if changed and not is_moved:
        lines = "\n  ".join(changed)
        hint = _how_to_train_longer(run, before, new.recipe, changed)
        raise HoldsAnotherRun(run, f"{run.path} holds the run of another recipe:\n  {lines}{hint}")
    data, source = run.read_data(), new.source
    if data.fingerprint != new.data.fingerprint:
        raise HoldsAnotherRun(
            run,
            f"{run.path} was trained on other images: {sum(data.class_counts or ())} images in "
            f"{len(data.class_names)} classes then, {len(source.train)} images in "
            f"{source.num_classes} classes now, or other files",
        )
    for name, recipe_before in data.teachers.items():
        changed = differences(recipe_from(recipe_before), new.teacher_recipes[name])
        if changed:
            lines = "\n  ".join(changed)
            raise HoldsAnotherRun(
                run,
                f"{run.path} was trained with another teacher; changes in "
                f"{new.teacher_recipes[name].name}:\n  {lines}",
            )


def _how_to_train_longer(run: RunDirectory, before: Recipe, now: Recipe, changed: list[str]) -> str:
    """How more epochs are trained, if they are all that changed and the run is complete."""
    more = now.training.epochs > before.training.epochs
    if len(changed) > 1 or not more or not run.results_file.exists():
        return ""
    weights = run.last_model / "model.safetensors"
    return (
        "\nIt is complete: its learning rate fell over these epochs, so more of them would be "
        f"another run. To train on from its weights, use another --out and init.weights={weights}"
    )


def run_data(
    source: Source, teachers: Mapping[str, dict[str, Any]], duplicates: Mapping[str, Any]
) -> RunData:
    """The facts about the images of a new run.

    Args:
        source: The images.
        teachers: The identities of the recipes of its teachers, by name.
        duplicates: The counts and examples of equal images.
    """
    return RunData(
        fingerprint=source.fingerprint(),
        class_names=tuple(source.class_names),
        class_counts=tuple(source.class_counts.tolist()),
        teachers=teachers,
        duplicates=duplicates,
        checked_images=source.checked_images,
        views_version=VIEWS_VERSION,
    )


def default_path(recipe: Recipe, out: Path | str | None) -> Path:
    """The run directory: `out`, or by default `runs/` and the recipe's name."""
    return Path(out) if out is not None else Path("runs") / recipe.name
