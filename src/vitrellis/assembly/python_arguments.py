"""What Python passes to `vitrellis.train`: anything of another kind is refused in plain words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.objectives import Term
from vitrellis.recipe import Recipe, load_recipe


def recipe_of(recipe: object) -> Recipe:
    """The recipe itself, or the one of this name.

    Raises:
        UsageError: If it is neither a recipe nor a name, or there is no such recipe.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | Path):
        return load_recipe(recipe)
    raise UsageError(
        f"recipe: is {_kind(recipe)}; should be the name of a recipe, or what "
        "vitrellis.load_recipe returns"
    )


def check_kinds(
    *,
    out: object,
    source: object,
    console: object,
    teachers: object,
    terms: object,
    on_epoch_end: object,
) -> None:
    """Makes sure that the arguments of `train` are of the kinds that it takes.

    Raises:
        UsageError: Naming the first that is not, and what would be right.
    """
    expected: list[tuple[str, object, type | tuple[type, ...], str]] = [
        ("out", out, (str, os.PathLike), "the path of a folder"),
        ("source", source, Source, "what vitrellis.from_tensors or from_dataset returns"),
        ("console", console, Console, "a rich.console.Console"),
        ("teachers", teachers, Mapping, "modules by name, such as {'teacher': module}"),
        ("terms", terms, Sequence, "a list of terms"),
    ]
    for name, value, kinds, words in expected:
        if value is not None and not isinstance(value, kinds):
            raise UsageError(f"{name}: is {_kind(value)}; should be {words}")
    for number, term in enumerate(terms if isinstance(terms, Sequence) else ()):
        if not isinstance(term, Term):
            raise UsageError(
                f"terms: number {number} is {_kind(term)}; should be a vitrellis.objectives.Term"
            )
    if on_epoch_end is not None and not callable(on_epoch_end):
        raise UsageError(
            f"on_epoch_end: is {_kind(on_epoch_end)}; should be a function of the epoch's figures"
        )


def check_modules(recipe: Recipe, modules: Mapping[str, nn.Module]) -> None:
    """Makes sure that the modules from Python are those that the recipe expects.

    Args:
        recipe: The student's recipe.
        modules: Modules from Python, by the names that the recipe gives them.

    Raises:
        UsageError: If some are missing, are not in the recipe, or have no weights.
    """
    expected = {name for name, settings in recipe.all_teachers.items() if settings.given}
    if expected != modules.keys():
        raise UsageError(
            f"teachers: the recipe expects modules for {_listed(expected)}, and was given "
            f"{_listed(modules)}. In Python: vitrellis.train(recipe, teachers={{name: module}}) "
            "with `teacher: {given: true}` in the recipe"
        )
    for name, module in dict[str, object](modules).items():
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"teachers: {name} should be a torch.nn.Module, and is {_kind(module)}"
            )
        for key, value in module.state_dict(keep_vars=True).items():
            if getattr(value, "is_meta", False):
                raise UsageError(
                    f"teachers: {name} has no weights: its {key} is on the device meta. Give it "
                    "some by module.to_empty(device='cpu') and module.load_state_dict(...)"
                )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
