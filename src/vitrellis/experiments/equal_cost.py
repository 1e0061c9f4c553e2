"""How long a student has to be trained alone to cost as much as it did with its teacher.

Seconds are fair if each training has the machine to itself. Trainings side by side slow each other
down, some more than others, so that their multiply-adds are counted instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

from vitrellis.analysis.cost import count_macs
from vitrellis.assembly.launch import Finished
from vitrellis.errors import VitrellisError
from vitrellis.recipe import Recipe, load_recipe
from vitrellis.runs.exported import Trained, load_exported

EqualCost = Literal["seconds", "multiply-adds"]

_BACKWARD = 2
"""The multiply-adds of a backward pass, in forward passes: one product for the gradient of the
inputs, and one for that of the weights (Kaplan et al., arXiv 2001.08361, section 2.1)."""


def equal_epochs(recipe: Recipe, guided: Finished, alone: Finished, cost: EqualCost) -> int:
    """The epochs in which the student alone costs as much as with its teachers.

    Args:
        recipe: The recipe of the student alone.
        guided: The run of the student with its teachers, whose own training counts as well.
        alone: The run of the student alone.
        cost: What is equal.

    Returns:
        At least the recipe's epochs.

    Raises:
        VitrellisError: If the run of a teacher was deleted, so that its cost is not known.
    """
    for name, settings in load_recipe(guided.run.recipe_file).all_teachers.items():
        if settings.recipe is not None and name not in guided.teachers:
            raise VitrellisError(
                f"{guided.run.path}: the run of its teacher was deleted, so that nobody knows "
                "what its training cost. Delete this run, too, and the same command trains both "
                "again"
            )
    price = seconds_spent if cost == "seconds" else macs_spent
    epochs = round(recipe.training.epochs * price(guided) / price(alone))
    return max(recipe.training.epochs, epochs)


def seconds_spent(finished: Finished) -> float:
    """The seconds in training steps of a run and of the teachers that were trained for it."""
    return sum(each.results.seconds for each in _with_teachers(finished))


def macs_spent(finished: Finished) -> float:
    """The multiply-adds of a run's training and of that of its teachers, by counting, not timing.

    They are those of the models' forward and backward passes; loss terms and optimizers cost little
    beside them. A student that prunes tokens is counted with the keep rate that it ends with.
    """
    return sum(own_macs(each) for each in _with_teachers(finished))


def own_macs(finished: Finished) -> float:
    """The multiply-adds of a run: the answers of its teachers count, their training does not."""
    run, results = finished.run, finished.results
    recipe = load_recipe(run.recipe_file)
    images = results.seconds * (results.images_per_second or 0.0)
    student = _forward(load_exported(run.best_model))
    per_image = (1 + _BACKWARD) * student
    if recipe.objective.needs_second_view:
        per_image += student  # keys are computed without a gradient
    once = 0
    for name, settings in recipe.all_teachers.items():
        teacher = _forward(load_exported(run.teacher_model(name)))
        if settings.offline:
            once += teacher * sum(run.read_data().class_counts or ())
        else:
            per_image += teacher
    return images * per_image * _gradients(recipe) + once


def _with_teachers(finished: Finished) -> Iterator[Finished]:
    yield finished
    for teacher in finished.teachers.values():
        yield from _with_teachers(teacher)


def _gradients(recipe: Recipe) -> float:
    """The mean number of gradients in a step: two while SAM looks for the worst loss nearby."""
    sam, epochs = recipe.optimizer.sam, recipe.training.epochs
    if sam is None:
        return 1.0
    steps = [*sam.steps, (epochs, 0.0)]
    doubled = sum(
        max(0, min(after, epochs) - first)
        for (first, rho), (after, _) in itertools.pairwise(steps)
        if rho > 0
    )
    return 1 + doubled / epochs


def _forward(trained: Trained) -> int:
    shown = trained.preprocessing
    return count_macs(trained.model, (shown.channels, *shown.img_size))
