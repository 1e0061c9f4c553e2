"""How images were preprocessed when timm's published weights were trained."""

from __future__ import annotations

from collections.abc import Sequence

import timm

from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe
from vitrellis.runs.exported import Preprocessing


def pretrained_normalization(
    name: str, channels: int, key: str
) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and the standard deviation per channel that a model of timm expects.

    Grey images take the means over the three channels.

    Args:
        name: The name of the model, with or without the tag of its weights.
        channels: The number of channels of the images.
        key: The recipe key that asks for it, for the message.

    Raises:
        UsageError: If they are not known, or are for another number of channels.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise UsageError(f"{key}: nothing is known about images of {name}; give mean and std")
    mean, std = cfg.mean, cfg.std
    if channels == 1 and len(mean) == 3:
        return [sum(mean) / 3], [sum(std) / 3]
    if len(mean) != channels:
        raise UsageError(
            f"{key}: {name} was trained on {len(mean)} channels, the images have {channels}. Use "
            "input.normalization=measured"
        )
    return mean, std


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


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
