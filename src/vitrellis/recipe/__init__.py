"""What a run is: typed, validated once, read from YAML and the command line."""

from vitrellis.data.augmentation.view import View
from vitrellis.recipe.identity import describe, differences, digest, identity
from vitrellis.recipe.loading import (
    header,
    load_recipe,
    packaged_recipes,
    recipe_from,
    teacher_recipe,
)
from vitrellis.recipe.recipe import Recipe, effective_lr, with_epochs, without_guidance
from vitrellis.recipe.teacher_sections import TeacherSection

__all__ = [
    "Recipe",
    "TeacherSection",
    "View",
    "describe",
    "differences",
    "digest",
    "effective_lr",
    "header",
    "identity",
    "load_recipe",
    "packaged_recipes",
    "recipe_from",
    "teacher_recipe",
    "with_epochs",
    "without_guidance",
]
