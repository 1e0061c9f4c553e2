"""Images that cannot be read: refused by one error that names them, or left out and listed.

Which images are left out is decided once, before splits are cut and before training begins, by
reading every image whole. So their numbers are the same in each epoch, and when a run is resumed or
evaluated: the run keeps the list (`data.json`), and takes it up while the files are the same.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from vitrellis.data.source import (
    BadImage,
    CheckedImages,
    Images,
    Source,
    Split,
    Subset,
    TensorImages,
)
from vitrellis.data.sources.arrays import ArrayImages
from vitrellis.data.sources.unreadable import known_bad, listed, refusal_of, short
from vitrellis.errors import UsageError, VitrellisError

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Sharing:
    """The processes of a run, which share the reading of images; by default, this one alone.

    Attributes:
        rank: The number of this process.
        world_size: The number of all.
        gather: Returns what all processes call it with, in their order.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]


def check_images(
    source: Source,
    progress: ProgressCallback | None = None,
    sharing: Sharing = Sharing(),
) -> CheckedImages:
    """Reads every image of a source whole; those that are held in memory as pixels cannot be bad.

    Args:
        source: The source, as its loader returned it.
        progress: Called with the number of images that are done, and of all that are read here.
        sharing: The processes that read a part each; all call this.
    """
    known = {(one.split, one.index): one for one in known_bad(source)}
    places = [
        (name, split.images, index)
        for name, split in source.splits.items()
        if not isinstance(_base(split.images), TensorImages | ArrayImages)
        for index in range(len(split))
    ][sharing.rank :: sharing.world_size]
    bad = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = pool.map(lambda place: known.get((place[0], place[2])) or _tried(*place), places)
        for done, one in enumerate(found, start=1):
            if one is not None:
                bad.append((done * sharing.world_size + sharing.rank, one))
            if progress is not None:
                progress(done, len(places))
    of_all = sorted(itertools.chain.from_iterable(sharing.gather(bad)), key=lambda pair: pair[0])
    return CheckedImages(source.fingerprint(), tuple(one for _, one in of_all))


def without_bad_images(
    source: Source,
    *,
    greatest_fraction: float,
    known: CheckedImages | None = None,
    progress: ProgressCallback | None = None,
    sharing: Sharing = Sharing(),
) -> Source:
    """The source without the images that cannot be read, and with a note on them.

    Args:
        source: The source, as its loader returned it.
        greatest_fraction: The share of all images that may be left out, rounded up to whole images.
        known: An earlier check, which is taken if it was of the same images.
        progress: Called as images are read.
        sharing: The processes that read a part of the images each.

    Raises:
        VitrellisError: If more are bad, or a class has no training image left.
    """
    is_known = known is not None and known.fingerprint == source.fingerprint()
    are_known = all(sharing.gather(is_known))  # if one reads, all have to
    if known is None or not are_known:
        known = check_images(source, progress, sharing)
    source = replace(source, checked_images=known)
    if not known.bad:
        return source
    total = sum(len(split) for split in source.splits.values())
    allowed = math.ceil(greatest_fraction * total)
    if len(known.bad) > allowed:
        raise VitrellisError(
            f"{len(known.bad):,} of {total:,} images cannot be read, and "
            f"data.max_bad_fraction={greatest_fraction:g} allows {allowed:,}:{listed(known.bad)}"
        )
    splits = {name: _kept(name, split, known.bad) for name, split in source.splits.items()}
    counts = Counter(one.split for one in known.bad)
    of_splits = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    note = (
        f"{len(known.bad):,} of {total:,} images cannot be read and are left out ({of_splits}), "
        f"the first is {short(known.bad[0])}"
    )
    kept = source.with_splits(train=splits["train"], val=splits.get("val"), test=splits.get("test"))
    return replace(kept, notes=(*source.notes, note)).checked()


def refuse_bad_images(source: Source, progress: ProgressCallback | None = None) -> None:
    """Reads every image whole if its loader found one that cannot be read, to name all of them.

    Args:
        source: The source, as its loader returned it.
        progress: Called as images are read.

    Raises:
        VitrellisError: If there are such images: names up to ten, and counts them.
    """
    if known_bad(source):
        raise refusal_of(check_images(source, progress).bad, source)


@contextmanager
def naming_all_bad_images(source: Source) -> Iterator[None]:
    """Looks at all images when one of them stops the block, so that one error names all of them."""
    try:
        yield
    except UsageError:
        raise
    except VitrellisError as error:
        if not _names_an_image(str(error), source):
            raise
        bad = check_images(source).bad
        if not bad:
            raise
        raise refusal_of(bad, source) from error


def _names_an_image(message: str, source: Source) -> bool:
    return any(
        message.startswith(split.images.name(index))
        for split in source.splits.values()
        for index in range(len(split))
    )


def _tried(split: str, images: Images, index: int) -> BadImage | None:
    try:
        images[index]
    except VitrellisError as error:
        return BadImage(split, index, images.name(index), str(error))
    return None


def _base(images: Images) -> Images:
    return _base(images.base) if isinstance(images, Subset) else images


def _kept(name: str, split: Split, bad: Sequence[BadImage]) -> Split:
    is_good = torch.ones(len(split), dtype=torch.bool)
    is_good[[one.index for one in bad if one.split == name]] = False
    return split if bool(is_good.all()) else split.subset(torch.nonzero(is_good).flatten())
