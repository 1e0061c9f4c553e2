"""Finds recipes: those in the package by name, and others by path. Nothing here loads torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from vitrellis.errors import UsageError, no_such_option
from vitrellis.recipe.yaml import read_mapping

_FOLDER = Path(__file__).parents[1] / "recipes"
_SUFFIXES = (".yaml", ".yml")


def packaged_recipes() -> list[str]:
    """The sorted names of the recipes in the package, without those that are only bases."""
    return sorted(path.stem for path in _FOLDER.glob("[!_]*.yaml"))


def header(name_or_path: str | Path) -> str:
    """The comment that a recipe opens with, without the comment signs.

    Raises:
        UsageError: If there is no such recipe.
    """
    path, label = find_recipe(name_or_path, Path())
    read_mapping(path, label)  # refuses a file that is no recipe
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def description_of(name: str) -> str | None:
    """The description of a packaged recipe, which is always in its own file; None without one.

    Raises:
        UsageError: If there is no such recipe.
    """
    description: str | None = read_mapping(_find_packaged(name), name).get("description")
    return description


def find_recipe(name_or_path: str | Path, folder: Path) -> tuple[Path, str]:
    """The file of a recipe, and the user's name for it.

    Args:
        name_or_path: A packaged recipe's name, or a path that ends in `.yaml`.
        folder: The folder in which a relative path starts.

    Raises:
        UsageError: If there is no such recipe.
    """
    text = str(name_or_path)
    if not (isinstance(name_or_path, Path) or is_path(text)):
        return _find_packaged(text), text
    path = folder / Path(text).expanduser()
    if path.is_dir():
        inside = path / "recipe.yaml"
        hint = f". Did you mean {inside}?" if inside.exists() else "; a recipe is a .yaml file"
        raise UsageError(f"{text}: a folder{hint}")
    if not path.exists():
        nearest = difflib.get_close_matches(path.stem, packaged_recipes(), n=3, cutoff=0.4)
        names = ", ".join(nearest or packaged_recipes())
        raise UsageError(f"{text}: no such file. Packaged recipes, by name alone: {names}")
    return path, str(path) if folder == Path() else text


def is_path(text: str) -> bool:
    """Whether a user means a file by this text, not a packaged recipe."""
    return text.endswith(_SUFFIXES) or "/" in text or "\\" in text


def _find_packaged(name: str) -> Path:
    path = _FOLDER / f"{name}.yaml"
    if name and path.exists():
        return path
    if name.startswith("-"):
        raise no_such_option(name)
    nearest = difflib.get_close_matches(name, packaged_recipes(), n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UsageError(
        f"unknown recipe {name!r}.{hint} `vitrellis recipes` lists what there is; a file of "
        "your own is given by its path, ending in .yaml"
    )
