"""Finds the images of a run again.

A relative `data.root` starts in the folder in which the run was started. A command that is called
elsewhere looks in its own folder first, then in those of the run's starts, and then where they
would be if the run was moved together with its images. If several of these exist, as when two
projects have a folder `photos`, the fingerprint of the images decides.
"""

from __future__ import annotations

from pathlib import Path

from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.data.sources import Source
from vitrellis.errors import VitrellisError
from vitrellis.recipe import Recipe, load_recipe
from vitrellis.runs.checksums import check_text
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.provenance import folders_of_starts


def images_of_run(run: RunDirectory, root: Path | None = None) -> tuple[Recipe, Source]:
    """A run's recipe, with the place where its images are, and the images.

    Args:
        run: A run directory.
        root: The folder of the images, in place of the recipe's `data.root`.

    Raises:
        VitrellisError: If the images are nowhere, naming the places that were looked at.
    """
    recipe = load_recipe(run.recipe_file)
    if root is not None:
        recipe = with_root(recipe, root)
        if not root.expanduser().exists():
            raise VitrellisError(f"--root: there is nothing at {root.expanduser().absolute()}")
    else:
        recipe = with_images_found(recipe, run, "--root FOLDER")
    return recipe, build_source(recipe, known=run.checked_images())


def with_images_found(recipe: Recipe, run: RunDirectory, remedy: str) -> Recipe:
    """The recipe with the place of the images as its `data.root`; the same for a new run.

    Args:
        recipe: The recipe of the run, whose `data.root` may be relative.
        run: The run directory, which may be missing.
        remedy: What gives another folder, for the message.

    Raises:
        VitrellisError: If the images are nowhere, naming the places that were looked at.
    """
    root = recipe.data.root
    if root is None or not run.exists():
        return recipe
    places = _places(root.expanduser(), run)
    found = [place for place in places if place.exists()]
    if not found:
        looked = "\n  ".join(map(str, places))
        raise VitrellisError(
            f"{run.path}: its images (data.root: {root}) are not in\n  {looked}\n"
            f"If they were moved, give their folder with {remedy}"
        )
    if len(found) == 1 and found[0] == places[0]:
        return recipe
    return with_root(recipe, found[0] if len(found) == 1 else _fitting(recipe, run, found))


def as_begun(recipe: Recipe, run: RunDirectory, images: Source) -> Recipe:
    """The recipe with the `data.root` that a run began with, if these are its images.

    They may have been moved, or be named from another folder: the run is the same.

    Args:
        recipe: The recipe that is trained now.
        run: The run directory, which may be missing.
        images: The images of the recipe.

    Raises:
        VitrellisError: If a file of the run is damaged.
    """
    if recipe.data.root is None or not run.exists():
        return recipe
    if run.read_data().fingerprint != images.fingerprint():
        return recipe
    check_text(run.recipe_file)
    before = load_recipe(run.recipe_file).data.root
    return recipe if before in (None, recipe.data.root) else with_root(recipe, before)


def with_root(recipe: Recipe, root: Path | None) -> Recipe:
    """The same recipe, with its images elsewhere."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": root})})


def _places(root: Path, run: RunDirectory) -> list[Path]:
    """Where the images may be, the likeliest place first; one place if `root` is absolute."""
    if root.is_absolute():
        return [root]
    folders = [Path.cwd(), *folders_of_starts(run.provenance_file)]
    return list(dict.fromkeys((folder / root).resolve() for folder in folders))


def _fitting(recipe: Recipe, run: RunDirectory, places: list[Path]) -> Path:
    """The first place whose images are those of the run; the first of all if none has them."""
    fingerprint = run.read_data().fingerprint
    for place in places:
        try:
            source = build_source(with_root(recipe, place), known=run.checked_images())
        except VitrellisError:
            continue  # no images, or not in this layout
        if source.fingerprint() == fingerprint:
            return place
    return places[0]
