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
from vitrellis.data.source import BadImage, Source
from vitrellis.data.sources import load_source
from vitrellis.data.sources.files import list_images
from vitrellis.data.sources.unreadable import refusal_of
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
        source = load_source(layout, root, args=arguments, keep_bad=True)
    except VitrellisError as error:
        return replace(found, error=str(error))
    members = [
        Member(name, index, split.images.name(index), int(label))
        for name, split in source.splits.items()
        for index, label in enumerate(split.labels)
    ]
    seen = _look(source, members, facts, reading)
    unreadable = list(found.unreadable)
    for one in seen.bad:
        if Path(one.name) not in facts:
            unreadable.append(FileFacts(Path(one.name), 0, "", error=one.reason))
    return replace(
        found,
        class_names=source.class_names,
        counts={
            name: split.labels.bincount(minlength=source.num_classes).tolist()
            for name, split in source.splits.items()
        },
        channels=source.channels,
        sizes=seen.sizes,
        unreadable=tuple(unreadable),
        same=tuple(same(seen.members, seen.digests)),
        alike=tuple(alike(seen.members, seen.looks, seen.digests)),
        notes=source.notes,
        error=str(refusal_of(seen.bad, source)) if seen.bad else None,
    )


def _oddities(facts: Sequence[FileFacts]) -> dict[str, list[Path]]:
    by_kind: dict[str, list[Path]] = {}
    for one in facts:
        for kind in one.oddities:
            by_kind.setdefault(kind, []).append(one.path)
    return by_kind


@dataclass
class _Seen:
    """The images that can be read, what is compared of them, and those that cannot be read."""

    members: list[Member] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    bad: list[BadImage] = field(default_factory=list)


def _look(
    source: Source, members: Sequence[Member], facts: dict[Path, FileFacts], reading: Reading
) -> _Seen:
    """A digest, a perceptual hash, and the sizes of all images, from files or from pixels."""
    seen = _Seen()
    with reading("comparing images") as progress:
        for number, member in enumerate(members, start=1):
            known = facts.get(Path(member.name))
            try:
                digest, look, size = _facts_of(source, member, known)
            except VitrellisError as error:
                seen.bad.append(BadImage(member.split, member.index, member.name, str(error)))
            else:
                seen.members.append(member)
                seen.digests.append(digest)
                seen.looks.append(look)
                seen.sizes[size] += 1
            progress(number, len(members))
    return seen


def _facts_of(
    source: Source, member: Member, known: FileFacts | None
) -> tuple[str, int, tuple[int, int]]:
    """Digest, perceptual hash and size `(H, W)` of an image.

    Raises:
        VitrellisError: If it cannot be read.
    """
    if known is not None and known.error is not None:
        raise VitrellisError(known.error)
    if known is not None and known.look is not None and known.size is not None:
        return known.digest, known.look, known.size
    pixels = source.splits[member.split].images[member.index]  # (C, H, W)
    digest = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
    return digest, perceptual_hash(pillow_image(pixels)), (pixels.shape[1], pixels.shape[2])
