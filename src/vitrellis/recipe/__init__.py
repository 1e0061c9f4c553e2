"""Recipes, which define runs: typed, validated once, read from YAML and the command line."""

from typing import TYPE_CHECKING

from vitrellis.public_names import names_of
from vitrellis.recipe.following import notes_on_teachers
from vitrellis.recipe.identity import describe, differences, digest, identity
from vitrellis.recipe.loading import (
    check_teachers_end,
    load_recipe,
    recipe_from,
    teacher_recipe,
)
from vitrellis.recipe.packaged import header, packaged_recipes
from vitrellis.recipe.teacher_sections import TeacherSection

if TYPE_CHECKING:
    from vitrellis.data.augmentation.view import View
    from vitrellis.recipe.recipe import Recipe, effective_lr, with_epochs, without_guidance
else:  # these load torch
    _MODULES = dict.fromkeys(
        ["Recipe", "effective_lr", "with_epochs", "without_guidance"], "vitrellis.recipe.recipe"
    )
    __getattr__ = names_of(
        __name__, on_demand={"View": "vitrellis.data.augmentation.view"} | _MODULES
    )


def __dir__() -> list[str]:
    """All public names, those too that are yet to be imported."""
    return sorted({*globals(), *__all__})


__all__ = [
    "Recipe",
    "TeacherSection",
    "View",
    "check_teachers_end",
    "describe",
    "differences",
    "digest",
    "effective_lr",
    "header",
    "identity",
    "load_recipe",
    "notes_on_teachers",
    "packaged_recipes",
    "recipe_from",
    "teacher_recipe",
    "with_epochs",
    "without_guidance",
]
