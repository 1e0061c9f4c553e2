"""The argument that names a recipe, with its completion by a shell."""

from __future__ import annotations

from typing import Annotated

import typer


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
