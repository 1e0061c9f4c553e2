"""How images were preprocessed when timm's published weights were trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import timm

from vitrellis.errors import UsageError
from vitrellis.models.support.positions import made_for
from vitrellis.recipe import Recipe
from vitrellis.runs.exported import Preprocessing


def pretrained_normalization(
    name: str, channels: int, key: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation per channel that a model of timm expects.

    For images of other channels they are fitted by `for_channels`.

    Args:
        name: The name of the model, with or without the tag of its weights.
        channels: The number of channels of the images.
        key: The recipe key that asks for it, for the message.

    Raises:
        UsageError: If they are not known.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise UsageError(f"{key}: nothing is known about images of {name}; give mean and std")
    return for_channels(cfg.mean, channels), for_channels(cfg.std, channels)


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values per channel for images of another number of channels, as their weights are adapted.

    timm sums the kernels of the first layer for grey images, and repeats them in turn for more
    channels than they are made for.

    Args:
        values: One per channel of the images of pretraining.
        channels: The number of channels of the images.

    Returns:
        The mean for one channel; otherwise the values, repeated in turn.
    """
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[channel % len(values)] for channel in range(channels))


def pretrained_notes(recipe: Recipe, preprocessing: Preprocessing) -> list[str]:
    """The preprocessing of a pretrained student: the model's own, or how it differs from that.

    Args:
        recipe: The recipe, whose `model` and `init` are read.
        preprocessing: The preprocessing of the run.
    """
    name = recipe.model.name
    cfg = timm.get_pretrained_cfg(name)
    if not recipe.init.pretrained or cfg is None:
        return []
    mean, std = _listed(preprocessing.mean), _listed(preprocessing.std)
    if recipe.input.normalization == "model":
        notes = [f"images are normalised as in pretraining: mean {mean}, std {std}"]
    else:
        notes = [
            f"images are normalised by mean {mean} and std {std}, not by those of pretraining "
            f"({_listed(cfg.mean)} and {_listed(cfg.std)}); input.normalization=model takes those"
        ]
    if cfg.interpolation != preprocessing.interpolation:
        notes.append(
            f"images are resized by {preprocessing.interpolation} interpolation, in pretraining by "
            f"{cfg.interpolation} (input.interpolation)"
        )
    return notes


def notes_on_weights(recipe: Recipe, preprocessing: Preprocessing) -> list[str]:
    """How images are normalised otherwise than for the weights that the run starts from.

    Args:
        recipe: The recipe, whose `init` is read.
        preprocessing: The preprocessing of the run.
    """
    if recipe.init.weights is None:
        return []
    known = made_for(recipe.init.weights.expanduser())
    theirs, ours = (known.mean, known.std), (preprocessing.mean, preprocessing.std)
    if not known.mean or not known.std or len(known.mean) != preprocessing.channels:
        return []
    pairs = zip([*theirs[0], *theirs[1]], [*ours[0], *ours[1]], strict=True)
    if all(math.isclose(a, b, abs_tol=_ALIKE) for a, b in pairs):
        return []
    mean, std = ([round(value, 4) for value in values] for values in theirs)
    return [
        f"images are normalised by mean {_listed(ours[0])} and std {_listed(ours[1])}, not as for "
        f'the weights; "input.normalization={{mean: {mean}, std: {std}}}" does as they need it'
    ]


_ALIKE = 0.01
"""The greatest difference between means and standard deviations that is not worth a note."""


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
