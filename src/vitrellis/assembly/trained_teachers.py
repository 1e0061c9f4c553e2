"""Where the teachers that have a recipe are trained and kept: beside the student's run.

The folder is named by all that defines the teacher: its recipe and its images. Other images lead to
another folder, and the old one stays.
"""

from __future__ import annotations

from pathlib import Path

from vitrellis.data.sources import Source
from vitrellis.errors import VitrellisError
from vitrellis.recipe import Recipe, differences, digest, identity, load_recipe
from vitrellis.runs.directory import RunDirectory


def teacher_run(teacher: Recipe, source: Source, student: RunDirectory) -> RunDirectory:
    """The run directory of a teacher.

    Args:
        teacher: The teacher's recipe.
        source: The teacher's images.
        student: The student's run directory.
    """
    folder = student.path.parent / "teachers"
    images = source.fingerprint()
    named = {"recipe": identity(teacher), "images": images}
    run = RunDirectory(folder / f"{teacher.name}-{digest(named)}")
    earlier = RunDirectory(folder / f"{teacher.name}-{digest(identity(teacher))}")
    return earlier if not run.exists() and _images_of(earlier) == images else run


def note_on_other_images(teacher: Recipe, source: Source, run: RunDirectory) -> str | None:
    """A note that a teacher is trained anew because the images changed; None if it is not.

    Args:
        teacher: The teacher's recipe.
        source: The teacher's images.
        run: The teacher's run directory.
    """
    if run.exists():
        return None
    for path in _runs_of(teacher, run.path.parent):
        before = RunDirectory(path)
        try:
            changed = differences(load_recipe(before.recipe_file), teacher)
            data = before.read_data()
        except VitrellisError:
            continue  # a damaged run is no reason not to train another
        if not changed and data.fingerprint != source.fingerprint():
            return (
                f"{teacher.name}: is trained anew in {run.path}, as {path} was trained on other "
                f"images ({sum(data.class_counts or ())} then, {len(source.train)} now, or other "
                "files). That one is kept"
            )
    return None


def _runs_of(teacher: Recipe, folder: Path) -> list[Path]:
    """The runs of this teacher's name, the newest first."""
    if not folder.is_dir():
        return []
    prefix = f"{teacher.name}-"
    files = [file for file in folder.glob("*/recipe.yaml") if file.parent.name.startswith(prefix)]
    files.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return [file.parent for file in files]


def _images_of(run: RunDirectory) -> str | None:
    """The fingerprint of the images of a run; None if there is no run, or it is damaged."""
    if not run.exists():
        return None
    try:
        return run.read_data().fingerprint
    except VitrellisError:
        return None
