"""A whole dataset looked at: what it holds, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from vitrellis.data.duplicates import Group, Member, same
from vitrellis.data.inspection.file_facts import (
    FileFacts,
    ProgressCallback,
    examine,
    perceptual_hash,
    pillow_image,
)
from vitrellis.data.inspection.lookalikes import alike
from vitrellis.data.source import Source
from vitrellis.data.sources import load_source
from vitrellis.data.sources.files import list_images
from vitrellis.errors import VitrellisError

Reading = Callable[[str], AbstractContextManager[ProgressCallback]]
"""Opens a progress bar with a title."""


@dataclass(frozen=True)
class Survey:
    """All that was found out about a dataset.

    Attributes:
        layout: The name of its source (`data.source`).
        arguments: The source's arguments (`data.args`).
        root: The folder or file.
        class_names: The classes, in the order of their indices; empty if it cannot be read.
        counts: The number of images of each class, by split.
        channels: The number of channels that training sees; None if it cannot be read.
        sizes: How often each size `(H, W)` occurs.
        formats: How often each format occurs; empty if images do not lie in files.
        unreadable: Files that cannot be read, with the reason.
        oddities: Files that can be read and are odd, by kind.
        same: Groups of images that are the same, bit by bit.
        alike: Groups of images that look alike.
        notes: What the source says about itself.
        error: The reason why no training on it can begin, or None.
    """

    layout: str
    arguments: dict[str, Any]
    root: Path
    class_names: tuple[str, ...] = ()
    counts: dict[str, list[int]] = field(default_factory=dict)
    channels: int | None = None
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    unreadable: tuple[FileFacts, ...] = ()
    oddities: dict[str, list[Path]] = field(default_factory=dict)
    same: tuple[Group, ...] = ()
    alike: tuple[Group, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def imbalance(self) -> float | None:
        """The training images of the largest class over those of the smallest."""
        train = self.counts.get("train")
        return max(train) / max(1, min(train)) if train else None

    @property
    def median_side(self) -> int | None:
        """The median of the images' shorter sides, in pixels."""
        sides = [min(size) for size, count in self.sizes.items() for _ in range(count)]
        return round(median(sides)) if sides else None


def survey(layout: str, root: Path, arguments: dict[str, Any], reading: Reading) -> Survey:
    """Looks at every image of a dataset.

    Args:
        layout: The name of its source.
        root: Its folder or file.
        arguments: The source's arguments.
        reading: Opens a progress bar.
    """
    files = list(list_images(root).images) if root.is_dir() else []
    facts: dict[Path, FileFacts] = {}
    if files:
        with reading("looking at files") as progress:
            facts = {one.path: one for one in examine(files, progress)}
    found = Survey(
        layout,
        arguments,
        root,
        sizes=Counter(one.size for one in facts.values() if one.size is not None),
        formats=Counter(one.format for one in facts.values() if one.format is not None),
        unreadable=tuple(one for one in facts.values() if one.error is not None),
        oddities=_oddities(list(facts.values())),
    )
    try:
        source = load_source(layout, root, args=arguments)
    except VitrellisError as error:
        return replace(found, error=str(error))
    members = [
        Member(name, index, split.images.name(index), int(label))
        for name, split in source.splits.items()
        for index, label in enumerate(split.labels)
    ]
    digests, looks, sizes = _looks(source, members, facts, reading)
    return replace(
        found,
        class_names=source.class_names,
        counts={
            name: split.labels.bincount(minlength=source.num_classes).tolist()
            for name, split in source.splits.items()
        },
        channels=source.channels,
        sizes=sizes,
        same=tuple(same(members, digests)),
        alike=tuple(alike(members, looks, digests)),
        notes=source.notes,
    )


def _oddities(facts: Sequence[FileFacts]) -> dict[str, list[Path]]:
    by_kind: dict[str, list[Path]] = {}
    for one in facts:
        for kind in one.oddities:
            by_kind.setdefault(kind, []).append(one.path)
    return by_kind


def _looks(
    source: Source, members: Sequence[Member], facts: dict[Path, FileFacts], reading: Reading
) -> tuple[list[str], list[int], Counter[tuple[int, int]]]:
    """A digest, a perceptual hash, and the sizes of all images, from files or from pixels."""
    digests: list[str] = []
    looks: list[int] = []
    sizes: Counter[tuple[int, int]] = Counter()
    with reading("comparing images") as progress:
        for number, member in enumerate(members, start=1):
            known = facts.get(Path(member.name))
            if known is not None and known.look is not None and known.size is not None:
                digest, look, size = known.digest, known.look, known.size
            else:
                pixels = source.splits[member.split].images[member.index]  # (C, H, W)
                digest = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
                look = perceptual_hash(pillow_image(pixels))
                size = (pixels.shape[1], pixels.shape[2])
            digests.append(digest)
            looks.append(look)
            sizes[size] += 1
            progress(number, len(members))
    return digests, looks, sizes
