"""Recipes from and to YAML, and what two of them have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrellis.recipe.loading import (
    COMMAND_LINE,
    Draft,
    find_recipe,
    packaged_recipes,
    parse_overrides,
)
from vitrellis.recipe.recipe import Recipe
from vitrellis.recipe.yaml import dump, read_mapping

__all__ = [
    "defines",
    "describe",
    "differences",
    "digest",
    "header",
    "load_recipe",
    "packaged_recipes",
    "recipe_from",
    "teacher_recipe",
]


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in that file.

    Args:
        name_or_path: A packaged recipe's name, or a path that ends in `.yaml`.
        overrides: `key=value` with dotted keys and YAML values, such as `training.epochs=30`.

    Raises:
        UsageError: If there is no such recipe, or anything in it is wrong; all mistakes are named.
    """
    path, label = find_recipe(name_or_path, Path())
    draft = Draft.of_file(path, label)
    draft.merge(parse_overrides(overrides), COMMAND_LINE)
    return draft.finish(label)


def recipe_from(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, name: str = "run"
) -> Recipe:
    """The recipe that a mapping of sections describes, such as `{"model": {"name": ...}, ...}`.

    Args:
        values: As a recipe file would hold; it may extend a packaged recipe.
        overrides: `key=value`, as on the command line.
        name: What it is called, if `values` does not say.

    Raises:
        UsageError: If anything in it is wrong.
    """
    draft = Draft.of_mapping(values, Path(), label=name, name=name, chain=())
    draft.merge(parse_overrides(overrides), COMMAND_LINE)
    return draft.finish(name)


def teacher_recipe(recipe: Recipe, name: str = "teacher") -> Recipe:
    """The recipe that one of the teachers is named by, for the student's images and machine.

    It learns from the student's training images with the student's seed, so that it never sees what
    the student is validated on, and balances classes if the student does; how often it is shown
    each class (`data.sampler`) is its own.
    `teacher.overrides` come last, and may change all of that.

    Args:
        recipe: The student's.
        name: Of the teacher, which is given by a recipe.

    Raises:
        UsageError: If there is no such recipe, or anything in it is wrong.
    """
    settings = recipe.tutors[name]
    assert settings.recipe is not None
    path, label = find_recipe(settings.recipe, Path())
    draft = Draft.of_file(path, label)
    split_seed = recipe.seed if recipe.data.seed is None else recipe.data.seed
    given = recipe.model_dump(include={"seed", "balance", "data", "machine"})
    given["data"]["seed"] = split_seed
    del given["data"]["sampler"]
    draft.merge(given, f"{recipe.name} (for its {name})")
    draft.merge(parse_overrides(settings.overrides), f"{recipe.name}: {name}.overrides")
    return draft.finish(label)


def header(name_or_path: str | Path) -> str:
    """The comment that a recipe opens with, without the comment signs.

    Raises:
        UsageError: If there is no such recipe.
    """
    path, label = find_recipe(name_or_path, Path())
    read_mapping(path, label)  # refuses what is no recipe
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def describe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every key with its value. Loading it gives an equal recipe."""
    return dump(recipe.model_dump(mode="json"))


def defines(recipe: Recipe) -> dict[str, Any]:
    """All that the result of a run depends on: not its name, the machine, or how often it saves."""
    return recipe.model_dump(
        mode="json",
        exclude={
            "name": True,
            "description": True,
            "machine": True,
            "training": {"checkpoint_minutes"},
        },
    )


def differences(before: Recipe, after: Recipe) -> list[str]:
    """What differs in the definition of two runs.

    Returns:
        Lines such as `optimizer.lr: 0.001 → 0.002`; none if the runs are the same.
    """
    old, new = dict(_leaves(defines(before))), dict(_leaves(defines(after)))
    return [
        f"{key}: {_shown(old, key)} → {_shown(new, key)}"
        for key in dict.fromkeys([*old, *new])
        if _shown(old, key) != _shown(new, key)
    ]


def digest(mapping: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that are equal for equal mappings, whatever their order.

    Args:
        mapping: Plain values, as `defines` returns.
    """
    text = json.dumps(mapping, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    value = leaves.get(key)
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
