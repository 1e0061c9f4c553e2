"""The file that says that a folder is a run, and the list of the files that we write into a run.

Only what is on the list is ever deleted. Runs of earlier versions have no marker; they are known by
the complete set of files with which every run began.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vitrellis.data.formats.json_files import read_json
from vitrellis.errors import VitrellisError
from vitrellis.runs.checksums import MARKER, read_sealed_json, write_sealed_json
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.results import RunData, parse

FORMAT = 1
"""The version of the layout of a run directory. A run with a higher one is of a later version."""

_STARTED = (MARKER, "recipe.yaml", "data.json")
_WRITTEN = (
    "metrics.jsonl",
    "results.json",
    "imported.json",
    "given-*.json",
    "model-description.json",
    "provenance.json",
)
_MODEL_FILES = ("config.json", "model.safetensors")
_FOLDERS = {
    "checkpoints": ("last.ckpt", "best.ckpt"),
    "tensorboard": ("events.out.tfevents.*",),
    "model": _MODEL_FILES,
    "last": _MODEL_FILES,
    "model-without-ema": _MODEL_FILES,
    "last-without-ema": _MODEL_FILES,
    "teacher": _MODEL_FILES,
    "teacher-*": _MODEL_FILES,
}
_SECTIONS = ("data:", "input:", "model:", "optimizer:", "schedule:", "training:")


@dataclass(frozen=True)
class Marker:
    """The content of `vitrellis-run.json`.

    Attributes:
        format: The version of the layout.
        is_being_emptied: Whether the old files of the run are being deleted, to start it again.
        has_checksums: Whether all files have one; not if an earlier version began the run.
    """

    format: int = FORMAT
    is_being_emptied: bool = False
    has_checksums: bool = True


def write_marker(run: RunDirectory, marker: Marker = Marker()) -> None:
    """Marks a folder as a run.

    Args:
        run: The folder.
        marker: What is said of it.
    """
    about = {"about": "This folder is a run of Vitrellis, which writes and deletes files in it."}
    write_sealed_json(run.marker_file, about | asdict(marker))


def read_marker(run: RunDirectory) -> Marker | None:
    """The marker of a folder; None if it has none.

    Raises:
        VitrellisError: If it is damaged, or of a later version.
    """
    file = run.marker_file
    if not file.is_file():
        return None
    try:
        marker = parse(Marker, read_sealed_json(file, is_sealed=True), file)
    except VitrellisError as error:
        raise VitrellisError(
            f"{error}. Delete this file: the run is known by its other files as well"
        ) from error
    if marker.format > FORMAT:
        raise VitrellisError(
            f"{run.path}: is a run of a later version of Vitrellis (format {marker.format}, this "
            f"version reads up to {FORMAT}). Update Vitrellis, or use another --out"
        )
    return marker


def is_run(run: RunDirectory) -> bool:
    """Whether the folder is one that we made: it has a marker, or the files of an earlier version.

    Raises:
        VitrellisError: For the reasons of `read_marker`.
    """
    return read_marker(run) is not None or _is_earlier_run(run)


def is_unused(run: RunDirectory) -> bool:
    """Whether the folder is empty, or holds only what a start left that was killed at once.

    Earlier versions began with the lock and `data.json`, before anything said what they are.
    """
    if other_files(run) or run.exists() or not has_only_begun(run):
        return False
    return not run.data_file.exists() or (run.lock_file.is_file() and _is_run_data(run))


def own_files(run: RunDirectory) -> list[Path]:
    """The files in the folder that are on our list, what a killed process left of them included.

    The lock is not among them.
    """
    found = [file for file in _files(run.path) if _is_listed(file.name, _STARTED + _WRITTEN)]
    for folder in _own_folders(run):
        names = next(names for own, names in _FOLDERS.items() if fnmatchcase(folder.name, own))
        found += [file for file in _files(folder) if _is_listed(file.name, names)]
    return sorted(found)


def other_files(run: RunDirectory) -> list[str]:
    """Whatever else is in the folder, by its path in it. Folders of others are not looked into."""
    own = {*own_files(run), run.lock_file}
    folders = list(_own_folders(run))
    entries = [entry for folder in (run.path, *folders) for entry in folder.iterdir()]
    others = {entry for entry in entries if entry not in own and entry not in folders}
    return sorted(str(entry.relative_to(run.path)) for entry in others)


def has_only_begun(run: RunDirectory) -> bool:
    """Whether a start that did not come to its end left only the files that a start writes."""
    begun = {run.path / name for name in _STARTED}
    return all(_without_tmp(file) in begun for file in own_files(run))


def empty(run: RunDirectory) -> None:
    """Deletes our files, but for the lock. A kill leaves a marker by which it is finished later.

    Args:
        run: A run, which is locked.

    Raises:
        VitrellisError: If a file cannot be deleted.
    """
    write_marker(run, Marker(is_being_emptied=True))
    try:
        run.recipe_file.unlink(missing_ok=True)  # first: without it, this is no run for any command
        for file in own_files(run):
            if file != run.marker_file:
                file.unlink()
        for folder in _own_folders(run):
            if not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise VitrellisError(
            f"could not delete {error.filename}: {error.strerror}. The same command goes on there"
        ) from error


def delete(run: RunDirectory) -> None:
    """Deletes our files and, if nothing else is in it, the folder.

    Args:
        run: A run, in which nobody trains.
    """
    empty(run)
    run.marker_file.unlink()
    run.lock_file.unlink(missing_ok=True)
    if not any(run.path.iterdir()):
        run.path.rmdir()


def delete_leftovers(run: RunDirectory) -> None:
    """Deletes the unfinished files of processes that were killed while they wrote.

    Args:
        run: A run, which is locked.
    """
    for file in own_files(run):
        if _without_tmp(file) != file:
            file.unlink()


def _is_earlier_run(run: RunDirectory) -> bool:
    """Whether all files are there with which runs began when there was no marker."""
    began = run.lock_file.is_file() or run.imported_file.is_file()
    if not (began and run.recipe_file.is_file() and run.data_file.is_file()):
        return False
    lines = run.recipe_file.read_text(errors="replace").splitlines()
    starts = {line.split(" ")[0] for line in lines}
    return starts.issuperset(_SECTIONS) and _is_run_data(run)


def _is_run_data(run: RunDirectory) -> bool:
    """Whether `data.json` is ours, even if a value in it is damaged."""
    try:
        values = read_json(run.data_file)
    except VitrellisError:
        return False
    return isinstance(values, dict) and values.keys() >= RunData.__dataclass_fields__.keys() - {
        "teachers",
        "duplicates",
        "checked_images",
        "views_version",
    }


def _own_folders(run: RunDirectory) -> Iterator[Path]:
    for entry in sorted(run.path.iterdir()):
        if entry.is_dir() and _is_listed(entry.name, tuple(_FOLDERS)):
            yield entry


def _files(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.is_dir() or entry.is_symlink()]


def _is_listed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(_complete(name), pattern) for pattern in patterns)


def _without_tmp(file: Path) -> Path:
    return file.with_name(_complete(file.name))


def _complete(name: str) -> str:
    """The name of the file that `atomic_write` was writing under another name."""
    return name[1:-4] if name.startswith(".") and name.endswith(".tmp") else name
