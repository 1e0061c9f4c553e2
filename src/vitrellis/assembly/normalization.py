"""The normalization of a run's images: named, given, or measured and kept for later runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from vitrellis.assembly.pretrained import pretrained_normalization
from vitrellis.data.canvas import Canvas, ProgressCallback, measure_normalization
from vitrellis.data.formats.json_files import read_json
from vitrellis.data.pixel_cache import digest_of_pixels
from vitrellis.data.source import Split
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.recipe import Recipe
from vitrellis.runs.atomic import write_json

Statistics = tuple[Sequence[float], Sequence[float]]
"""The mean and the standard deviation of each channel, for images in [0, 1]."""

NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Mean and standard deviation per channel, for images in [0, 1]."""
WORTH_KEEPING = 100
"""The number of image files from which their statistics are kept."""


def given_normalization(recipe: Recipe, channels: int) -> Statistics:
    """The mean and the standard deviation per channel that the recipe gives.

    Grey images take the means over the three channels of colour statistics.

    Raises:
        UsageError: If they are to be measured, or are for another number of channels.
    """
    normalization = recipe.input.normalization
    if normalization == "measured":
        raise UsageError(
            "input.normalization: cannot be measured without images. Name them (data.*), or give "
            "imagenet, cifar, or a mapping with mean and std"
        )
    if normalization == "model":
        return pretrained_normalization(recipe.model.name, channels, "input.normalization")
    mean, std = (
        NORMALIZATIONS[normalization]
        if isinstance(normalization, str)
        else (normalization.mean, normalization.std)
    )
    if channels == 1 and len(mean) == 3:
        return [sum(mean) / 3], [sum(std) / 3]
    if len(mean) != channels:
        raise UsageError(
            f"input.normalization: {normalization!r} is for {len(mean)} channels, the images have "
            f"{channels}. Use input.normalization=measured"
        )
    return mean, std


def measured_normalization(
    split: Split,
    canvas: Canvas,
    progress: ProgressCallback | None = None,
    folder: Path | None = None,
) -> Statistics:
    """The statistics of the training images, which earlier runs may have measured.

    To decode two thousand photographs takes from seconds to minutes. What is measured is therefore
    kept in the user's cache folder, in a file that is named after everything the pixels depend on.

    Args:
        split: The training split.
        canvas: The size at which images are measured.
        progress: Called after every image that is decoded.
        folder: The folder of decoded images, in which they are kept; None to keep nothing.

    Raises:
        VitrellisError: If an image cannot be read.
    """
    key = digest_of_pixels(split.images, canvas) if len(split) >= WORTH_KEEPING else None
    if folder is None or key is None:
        return measure_normalization(split, canvas.size, canvas.fit, progress)
    file = folder / f"{key}.normalization.json"
    kept = _read(file, split.images.channels)
    if kept is not None:
        return kept
    measured = measure_normalization(split, canvas.size, canvas.fit, progress)
    if digest_of_pixels(split.images, canvas) == key:  # else an image was replaced meanwhile
        with contextlib.suppress(VitrellisError, OSError):  # a cache is not worth an error
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"mean": measured[0], "std": measured[1]})
    return measured


def _read(file: Path, channels: int) -> Statistics | None:
    """What a file holds; None if it is missing or damaged."""
    with contextlib.suppress(VitrellisError):
        content = read_json(file)
        if isinstance(content, dict):
            mean, std = (
                _shares(content.get("mean"), channels),
                _shares(content.get("std"), channels),
            )
            if mean is not None and std is not None and min(std) > 0:
                return mean, std
    return None


def _shares(values: object, count: int) -> list[float] | None:
    """The numbers in [0, 1] that these are; None if they are anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    return values if all(type(each) is float and 0 <= each <= 1 for each in values) else None
