"""Refuses portions of a batch that have a single image, where a batch norm needs more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitrellis.data.batch_sizes import batch_sizes
from vitrellis.errors import UsageError
from vitrellis.models import norm_of_one_value
from vitrellis.objectives import Objective
from vitrellis.recipe import Recipe
from vitrellis.runs.exported import Preprocessing
from vitrellis.teachers.teacher import Teacher


class TrainedModel(NamedTuple):
    """A model that computes in train mode, with the images that it takes."""

    model: nn.Module
    channels: int
    img_size: tuple[int, int]


def models_in_training(
    recipe: Recipe,
    student: nn.Module,
    preprocessing: Preprocessing,
    teachers: Mapping[str, Teacher],
) -> dict[str, TrainedModel]:
    """The models of a run that compute in train mode, by their names in messages.

    Args:
        recipe: The recipe, which gives the teachers their modes.
        student: The student.
        preprocessing: The preprocessing of its images.
        teachers: The teachers.
    """
    models = {"model": TrainedModel(student, preprocessing.channels, preprocessing.img_size)}
    for name, teacher in teachers.items():
        if recipe.all_teachers[name].mode == "train":
            models[name] = TrainedModel(teacher.model, teacher.channels, teacher.img_size)
    return models


def check_batch_norms(
    recipe: Recipe,
    count: int,
    world_size: int,
    models: Mapping[str, TrainedModel],
    objective: Objective | None = None,
) -> None:
    """Makes sure that batch norms see two values of each channel in every portion of every batch.

    Args:
        recipe: The recipe.
        count: The number of training images.
        world_size: The number of processes.
        models: The models in train mode.
        objective: The loss, whose terms may have batch norms.

    Raises:
        UsageError: Naming the first batch norm that would not, and the key to change.
    """
    if recipe.training.sync_batchnorm and world_size > 1:
        return  # statistics are taken over all devices
    why = _why_one_image(recipe, count, world_size)
    if why is None:
        return
    for name, (model, channels, img_size) in models.items():
        norm = norm_of_one_value(model, channels, img_size)
        if norm is not None:
            height, width = img_size
            raise UsageError(
                f"{why}. The batch norm {norm} of {name} ({type(model).__name__}) sees a single "
                f"value of each channel of such an image of {height}x{width} pixels, and has no "
                "variance to train with"
            )
    for name, module in () if objective is None else objective.named_modules():
        if isinstance(module, _BatchNorm):
            raise UsageError(f"{why}. The batch norm {name} of the objective cannot train with it")


def _why_one_image(recipe: Recipe, count: int, world_size: int) -> str | None:
    """What makes a portion of a batch have a single image, and the cure; None if none has."""
    training = recipe.training
    _, whole, rest = batch_sizes(
        count,
        training.batch_size,
        world_size,
        drop_last=training.drop_last,
        selected_round=training.selected_round,
    )
    if _smallest_portion(whole, world_size, training.accumulate) == 1:
        if count < training.batch_size:
            has = f"data: there is 1 training image for each of {world_size} devices"
            return f"{has}. Use more images, or fewer devices" if world_size > 1 else has
        parts = world_size * training.accumulate
        on = f" on {world_size} devices" if world_size > 1 else ""
        into = f", computed in {parts} portions{on}," if parts > 1 else ""
        return (
            f"training.batch_size: {training.batch_size}{into} has a portion of one image. Use a "
            f"larger one, such as {4 * parts}"
        )
    if rest and _smallest_portion(rest, world_size, training.accumulate) == 1:
        return (
            f"training.drop_last: false, and the last batch of an epoch has {rest} of the {count} "
            "images, with a portion of one image. Use true, or another training.batch_size"
        )
    return None


def _smallest_portion(size: int, world_size: int, accumulate: int) -> int:
    """The images of the smallest portion, as `tensor_split` and then `chunk` make them."""
    shares = {size // world_size, -(-size // world_size)}
    smallest = []
    for share in shares:
        portion = -(-share // accumulate)
        smallest.append(share % portion or portion)
    return min(smallest)
