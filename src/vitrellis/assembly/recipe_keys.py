"""The recipe's keys in the messages of parts that know no recipe, such as models and readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vitrellis.errors import VitrellisError
from vitrellis.recipe import Recipe

OF_STUDENT = {
    "name": "model.name",
    "args": "model.args",
    "img_size": "input.img_size",
    "weights": "init.weights",
    "pretrained": "init.pretrained",
}
"""The keys that set the arguments of `create_model` for a student."""


def key_of_teacher(recipe: Recipe, name: str) -> str:
    """The key of a teacher's section, such as `teachers.large`."""
    return "teacher" if recipe.teacher is not None else f"teachers.{name}"


def keys_of_named(key: str) -> dict[str, str]:
    """The keys that set the arguments of `create_model` for a teacher that is given by its name.

    Args:
        key: The key of its section.
    """
    arguments = {"name": "model"} | {name: name for name in OF_STUDENT if name != "name"}
    return {argument: f"{key}.{own}" for argument, own in arguments.items()}


@contextmanager
def arguments_under(keys: Mapping[str, str]) -> Iterator[None]:
    """Puts the key of the argument at fault before the message of an error from the block.

    Args:
        keys: The recipe's key for each argument of `create_model`.
    """
    try:
        yield
    except VitrellisError as error:
        argument, dot, inner = (error.argument or "").partition(".")
        if argument in keys:
            error.args = (f"{keys[argument]}{dot}{inner}: {error}",)
        raise


@contextmanager
def of_teacher(recipe: Recipe, name: str) -> Iterator[None]:
    """Says of an error from the block that it is in the recipe of a teacher.

    Args:
        recipe: The student's recipe.
        name: The teacher's name.
    """
    try:
        yield
    except VitrellisError as error:
        settings = recipe.all_teachers[name]
        key = key_of_teacher(recipe, name)
        message = str(error)
        changed = [override.partition("=")[0].strip() for override in settings.overrides]
        if any(message.startswith((f"{each}:", f"{each}.")) for each in changed):
            error.args = (f"{key}.overrides.{message}",)
        else:
            error.args = (f"{key}.recipe ({settings.recipe}): {message}",)
        raise
