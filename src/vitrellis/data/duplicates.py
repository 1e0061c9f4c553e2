"""Images that are in several splits, or in several classes: found by their bytes.

A test image that was trained on makes the figures too good, and an image with two labels cannot be
learned. Files are compared by length first, then by a digest of those of equal length, so that a
large set of different images costs no more than its lengths. The same picture saved anew is not
found.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vitrellis.data.source import Images, Source, Subset, TensorImages
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import VitrellisError

_Place = tuple[str, int, int]
"""The name of a split, the number of an image in it, and its class."""


@dataclass(frozen=True)
class Duplicates:
    """Equal images that should not be equal.

    Attributes:
        shared: For each pair of splits, such as `train/test`, the images of the second that are in
            the first, too.
        two_labels: The number of different images that occur in more than one class.
        examples: For each pair, and for `labels`, the names of two equal images.
    """

    shared: dict[str, int]
    two_labels: int
    examples: dict[str, tuple[str, str]]

    def to_json(self) -> dict[str, object]:
        """The counts and examples, for `data.json`."""
        return {
            "shared": dict(self.shared),
            "two_labels": self.two_labels,
            "examples": {key: list(names) for key, names in self.examples.items()},
        }

    def notes(self, *, val_was_cut: bool) -> tuple[str, ...]:
        """What a user should know, a sentence for each fact.

        Args:
            val_was_cut: Whether the validation images were drawn from the training images.
        """
        lines = []
        for pair, count in self.shared.items():
            first, second = pair.split("/")
            one, other = self.examples[pair]
            why = ""
            if pair == "train/val" and val_was_cut:
                why = ": the data holds them twice, and the random split tells them apart"
            lines.append(
                f"{second} images that are {first} images, too: {count:,}, such as {other} and "
                f"{one}{why}; {second} figures are too good by them"
            )
        if self.two_labels:
            one, other = self.examples["labels"]
            lines.append(
                f"images with more than one label: {self.two_labels:,}, such as {one} and {other}"
            )
        return tuple(lines)


def find_duplicates(source: Source) -> Duplicates:
    """Equal images of different splits or classes.

    Images that are neither files nor in memory are not compared.

    Raises:
        VitrellisError: If a file cannot be read.
    """
    groups: defaultdict[Hashable, list[_Place]] = defaultdict(list)
    for name, split in source.splits.items():
        for index, size in enumerate(_sizes(split.images)):
            if size is not None:
                groups[size].append((name, index, int(split.labels[index])))
    suspects = [place for group in groups.values() if len(group) > 1 for place in group]
    found = [_place(source.splits[name].images, index) for name, index, _ in suspects]
    with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
        waiting = [pool.submit(_file_digest, where) for where in found if isinstance(where, Path)]
        of_files = (future.result() for future in waiting)
        digests = [next(of_files) if isinstance(w, Path) else _pixel_digest(w) for w in found]
    equal: defaultdict[bytes, list[_Place]] = defaultdict(list)
    for digest, place in zip(digests, suspects, strict=True):
        equal[digest].append(place)
    shared: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    two_labels = 0
    for places in equal.values():
        if len({label for _, _, label in places}) > 1:
            two_labels += 1
            other = next(place for place in places if place[2] != places[0][2])
            examples.setdefault("labels", (_name(source, places[0]), _name(source, other)))
        for pair, first, second in _pairs(source, places):
            shared[pair] += sum(place[0] == second[0] for place in places)
            examples.setdefault(pair, (_name(source, first), _name(source, second)))
    return Duplicates(dict(sorted(shared.items())), two_labels, examples)


def is_cut_from_training(source: Source) -> bool:
    """Whether the validation images are some of those that the training images were taken from."""
    train = source.train.images
    val = None if source.val is None else source.val.images
    return isinstance(train, Subset) and isinstance(val, Subset) and _base(train) is _base(val)


def _base(images: Images) -> Images:
    return _base(images.base) if isinstance(images, Subset) else images


def _pairs(source: Source, places: list[_Place]) -> Iterator[tuple[str, _Place, _Place]]:
    """The pairs of splits that equal images are in, with the first image of each."""
    first = {name: place for place in reversed(places) for name in (place[0],)}
    present = [name for name in source.splits if name in first]
    for number, name in enumerate(present):
        for other in present[number + 1 :]:
            yield f"{name}/{other}", first[name], first[other]


def _name(source: Source, place: _Place) -> str:
    split, index, label = place
    images = source.splits[split].images
    return f"{images.name(index)} ({split}, {source.class_names[label]})"


def _sizes(images: Images) -> list[Hashable | None]:
    """What equal images have in common without being read; None if they cannot be compared."""
    if isinstance(images, Subset):
        sizes = _sizes(images.base)
        return [sizes[index] for index in images.indices.tolist()]
    if isinstance(images, TensorImages):
        return ["pixels"] * len(images)
    if isinstance(images, ImageFiles):
        paths = [images.root / path for path in images.paths]
        with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
            return list(pool.map(_length, paths, chunksize=500))
    return [None] * len(images)


def _length(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None  # reading it will tell


def _place(images: Images, index: int) -> Path | Tensor:
    """The file of an image, or its pixels in memory."""
    if isinstance(images, Subset):
        return _place(images.base, int(images.indices[index]))
    if isinstance(images, TensorImages):
        return images.tensor[index]
    assert isinstance(images, ImageFiles)
    return images.root / images.paths[index]


def _pixel_digest(pixels: Tensor) -> bytes:
    return hashlib.sha256(pixels.contiguous().numpy().data).digest()


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise VitrellisError(f"{path}: cannot be read: {error.strerror}") from None
