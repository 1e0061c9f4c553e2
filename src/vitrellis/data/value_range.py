"""The grey levels of 16-bit images that become black and white.

Cameras and scanners store 10, 12 or 14 bits in 16. Scaled as if all 65,536 levels were used, a few
of the 256 levels that a model sees would be left.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vitrellis.data.source import Images, Source, Split, Subset
from vitrellis.data.sources.decoding import deep_levels
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import UsageError

SAMPLED_IMAGES = 100
"""Greatest number of files in which levels are looked for, evenly spread."""
_LEVELS = 65536


def with_value_range(source: Source, value_range: tuple[int, int] | None) -> Source:
    """A source whose 16-bit images are scaled from a range of levels, with a note if need be.

    Args:
        source: The source.
        value_range: The levels that become black and white; None for all 65,536, which is noted if
            the images use less than half of them.

    Raises:
        UsageError: If a range is given for images that are not 16-bit grey files.
    """
    observed = _observed(source.train.images)
    if observed is None:
        if value_range is not None:
            raise UsageError(
                f"data.value_range: the images of {source.name!r} are not files of 16-bit grey, "
                "and have 256 levels; leave it out"
            )
        return source
    low, high = observed
    notes = source.notes
    if value_range is None and high - low < _LEVELS // 2:
        left = len({(level * 255 + 32767) // 65535 for level in (*range(low, high + 1, 97), high)})
        notes += (
            f"images have 16 bits and use levels {low:,} to {high:,}, which become {left} of 256 "
            f"grey levels; name their range to keep more: data.value_range=[{low}, {high}]",
        )
    elif value_range is not None and (low < value_range[0] or high > value_range[1]):
        notes += (
            f"images use levels {low:,} to {high:,}; those outside of data.value_range, "
            f"{value_range[0]:,} to {value_range[1]:,}, are cut off",
        )
    splits: dict[str, Split | None] = {"val": None, "test": None}
    for name, split in source.splits.items():
        splits[name] = Split(_ranged(split.images, value_range), split.labels)
    assert splits["train"] is not None
    changed = source.with_splits(train=splits["train"], val=splits["val"], test=splits["test"])
    return replace(changed, notes=notes)


def _observed(images: Images) -> tuple[int, int] | None:
    """The lowest and the highest level of 16-bit grey in a sample; None if there is none."""
    count = min(len(images), SAMPLED_IMAGES)
    found = []
    for index in (torch.arange(count) * len(images) // max(1, count)).tolist():
        path = _path(images, index)
        levels = None if path is None else deep_levels(path)
        if levels is not None:
            found.append(levels)
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _path(images: Images, index: int) -> Path | None:
    if isinstance(images, Subset):
        return _path(images.base, int(images.indices[index]))
    if isinstance(images, ImageFiles):
        return images.root / images.paths[index]
    return None


def _ranged(images: Images, value_range: tuple[int, int] | None) -> Images:
    if isinstance(images, Subset):
        return Subset(_ranged(images.base, value_range), images.indices)
    if isinstance(images, ImageFiles):
        return replace(images, value_range=value_range)
    return images
