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
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from torch import Tensor

from vitrellis.data.source import Images, Source, Subset, TensorImages
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import VitrellisError


@dataclass(frozen=True)
class Member:
    """An image in its split.

    Attributes:
        split: The name of the split.
        index: The number of the image in it.
        name: The name by which a user finds it.
        label: Its class index.
    """

    split: str
    index: int
    name: str
    label: int


@dataclass(frozen=True)
class Group:
    """Images that are the same or look alike, in the order of splits and numbers."""

    members: tuple[Member, ...]

    @property
    def crosses_splits(self) -> bool:
        """Whether its images are in more than one split."""
        return len({member.split for member in self.members}) > 1

    @property
    def has_several_labels(self) -> bool:
        """Whether its images have more than one class."""
        return len({member.label for member in self.members}) > 1


def same(members: Sequence[Member], digests: Sequence[Hashable]) -> list[Group]:
    """Groups of two or more images with the same digest, one for each image."""
    by_digest: dict[Hashable, list[Member]] = defaultdict(list)
    for member, digest in zip(members, digests, strict=True):
        by_digest[digest].append(member)
    return [Group(tuple(group)) for group in by_digest.values() if len(group) > 1]


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
    by_size: defaultdict[Hashable, list[Member]] = defaultdict(list)
    for name, split in source.splits.items():
        for index, size in enumerate(_sizes(split.images)):
            if size is not None:
                member = Member(name, index, split.images.name(index), int(split.labels[index]))
                by_size[size].append(member)
    suspects = [member for members in by_size.values() if len(members) > 1 for member in members]
    found = [_place(source.splits[member.split].images, member.index) for member in suspects]
    with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
        waiting = [pool.submit(_file_digest, where) for where in found if isinstance(where, Path)]
        of_files = (future.result() for future in waiting)
        digests = [next(of_files) if isinstance(w, Path) else _pixel_digest(w) for w in found]
    shared: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    two_labels = 0
    for group in same(suspects, digests):
        one = group.members[0]
        if group.has_several_labels:
            two_labels += 1
            other = next(member for member in group.members if member.label != one.label)
            examples.setdefault("labels", (_named(source, one), _named(source, other)))
        for pair, first, second in _pairs(source, group):
            shared[pair] += sum(member.split == second.split for member in group.members)
            examples.setdefault(pair, (_named(source, first), _named(source, second)))
    return Duplicates(dict(sorted(shared.items())), two_labels, examples)


def is_cut_from_training(source: Source) -> bool:
    """Whether the validation images are some of those that the training images were taken from."""
    train = source.train.images
    val = None if source.val is None else source.val.images
    return isinstance(train, Subset) and isinstance(val, Subset) and _base(train) is _base(val)


def _base(images: Images) -> Images:
    return _base(images.base) if isinstance(images, Subset) else images


def _pairs(source: Source, group: Group) -> Iterator[tuple[str, Member, Member]]:
    """The pairs of splits that equal images are in, with the first image of each."""
    first = {member.split: member for member in reversed(group.members)}
    present = [name for name in source.splits if name in first]
    for name, other in combinations(present, 2):
        yield f"{name}/{other}", first[name], first[other]


def _named(source: Source, member: Member) -> str:
    return f"{member.name} ({member.split}, {source.class_names[member.label]})"


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
