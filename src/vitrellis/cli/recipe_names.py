"""The arguments that name a recipe and change it, with completion by a shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vitrellis.recipe import Recipe


def complete_recipe(incomplete: str) -> list[str]:
    """The packaged recipes whose names begin so; torch is not loaded for it."""
    from vitrellis.recipe.packaged import packaged_recipes

    return [name for name in packaged_recipes() if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A packaged recipe's name, or a YAML file.",
        autocompletion=complete_recipe,
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as optimizer.lr=1e-3."),
]


def load_and_note(recipe: str, changes: Sequence[str], on: Console) -> Recipe:
    """The recipe of a command, before anything slow is loaded; notes on its teachers are printed.

    Args:
        recipe: A packaged recipe's name, or a YAML file.
        changes: The `key=value` changes to it.
        on: The console for the notes.

    Raises:
        UsageError: If the recipe is wrong.
    """
    from vitrellis.cli.console import print_notes
    from vitrellis.recipe import load_recipe, notes_on_teachers

    loaded = load_recipe(recipe, changes)
    print_notes(on, notes_on_teachers(loaded, changes))
    return loaded
