"""The names of recipes, for the completion of a shell."""

from __future__ import annotations


def complete_recipe(incomplete: str) -> list[str]:
    """The packaged recipes whose names begin so; torch is not loaded for it."""
    from vitrellis.recipe.packaged import packaged_recipes

    return [name for name in packaged_recipes() if name.startswith(incomplete)]
