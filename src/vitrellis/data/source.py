"""A source: named classes, and images with labels in up to three splits."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vitrellis.errors import VitrellisError

UNBALANCED = 5.0
"""The ratio of the largest class to the smallest from which on `balance=true` is suggested."""


DOWNLOADABLE = frozenset({"cifar10", "cifar100", "flowers102", "fashion-mnist"})
"""The sources that `vitrellis data download` fetches."""


class Images(Protocol):
    """Images that can be read one by one, in any order, from any process."""

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """`(H, W)` in pixels if all images have the same size, else None."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` as it is stored, uint8 `(C, H, W)`."""
        ...

    def name(self, index: int) -> str:
        """The name by which a user finds image `index`: its path, or its number."""
        ...

    def fingerprint(self) -> str:
        """A hexadecimal digest that changes when the images do."""
        ...


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes:
        images: The images.
        labels: `(N,)` int64 class indices.
    """

    images: Images
    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise VitrellisError(
                f"labels must be int64 of shape ({len(self.images)},), one per image; "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Tensor) -> Split:
        """The images at `indices`, `(M,)` int64, in that order."""
        return Split(Subset(self.images, indices), self.labels[indices])


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read.

    Attributes:
        split: The name of its split.
        index: Its number in the split.
        name: The name by which a user finds it.
        reason: What is wrong with it; names it.
    """

    split: str
    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class CheckedImages:
    """The result of reading all images of a source once.

    Attributes:
        fingerprint: The source's fingerprint when they were read.
        bad: Those that cannot be read.
    """

    fingerprint: str
    bad: tuple[BadImage, ...]


@dataclass(frozen=True)
class Source:
    """A dataset: its classes and its splits. `val` and `test` may be missing.

    Attributes:
        name: The name that a recipe gives it.
        class_names: One per class, in the order of the class indices.
        train: The images to train on.
        val: The images on which settings and checkpoints are selected.
        test: The images on which figures are reported, used for nothing else.
        notes: Facts about its reading that the user should know, one sentence each.
        checked_images: The check after which bad images were left out; None if there was none.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split | None = None
    test: Split | None = None
    notes: tuple[str, ...] = ()
    checked_images: CheckedImages | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits there are, by name: `train`, then `val` and `test` if not missing."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.train.images.channels

    @property
    def class_counts(self) -> Tensor:
        """Number of training images of each class, `(K,)` int64."""
        return torch.bincount(self.train.labels, minlength=self.num_classes)

    def fingerprint(self) -> str:
        """A digest of classes, labels and images: equal for equal data."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for split in (self.train, self.val, self.test):
            if split is not None:
                digest.update(split.labels.numpy().tobytes())
                digest.update(split.images.fingerprint().encode())
            digest.update(b"|")
        return digest.hexdigest()[:16]

    def with_splits(self, *, train: Split, val: Split | None, test: Split | None) -> Source:
        """The same classes with other splits."""
        return replace(self, train=train, val=val, test=test)

    def checked(self) -> Source:
        """The source itself, if a model can be trained on it.

        Raises:
            VitrellisError: If there are fewer than two classes, names repeat or are not UTF-8, a
                class has no training image, a label is out of range, or the channels differ.
        """
        if self.num_classes < 2:
            raise VitrellisError(
                f"source {self.name!r} has {self.num_classes} class; at least two are needed"
            )
        repeated = [name for name, count in Counter(self.class_names).items() if count > 1]
        if repeated:
            raise VitrellisError(f"source {self.name!r} has several classes named {repeated[0]!r}")
        self._check_names()
        for name, split in self.splits.items():
            self._check_split(name, split)
        missing = [self.class_names[c] for c in torch.nonzero(self.class_counts == 0).flatten()]
        if missing:
            raise VitrellisError(
                f"source {self.name!r} has no training image of {_some(missing)}; "
                "every class needs at least one, or must go"
            )
        return self

    def _check_names(self) -> None:
        for name in self.class_names:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                written = os.fsencode(name) if name[error.start] >= "\udc80" else ascii(name)
                raise VitrellisError(
                    f"source {self.name!r}: the class name {written!r} is not UTF-8, and could be "
                    "written into no file. Rename the class; if it is a folder, convmv does it for "
                    "all of them: convmv -r -f latin1 -t utf8 --notest FOLDER"
                ) from error

    def _check_split(self, name: str, split: Split) -> None:
        if len(split) == 0:
            raise VitrellisError(f"source {self.name!r}: the {name} split has no images")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= self.num_classes:
            label = low if low < 0 else high
            raise VitrellisError(
                f"source {self.name!r}: label {label} in the {name} split; with "
                f"{self.num_classes} classes labels are 0 to {self.num_classes - 1}"
            )
        if split.images.channels != self.channels:
            raise VitrellisError(
                f"source {self.name!r}: {name} images have {split.images.channels} channels and "
                f"training images {self.channels}; all splits must have as many"
            )


@dataclass(frozen=True)
class TensorImages:
    """Images held as one tensor.

    Attributes:
        tensor: uint8 `(N, C, H, W)`.
    """

    tensor: Tensor

    def __post_init__(self) -> None:
        if self.tensor.ndim != 4 or self.tensor.dtype != torch.uint8:
            raise VitrellisError(
                f"images must be uint8 of shape (N, C, H, W); "
                f"got {self.tensor.dtype} of shape {tuple(self.tensor.shape)}"
            )

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        return int(self.tensor.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` in pixels."""
        return int(self.tensor.shape[2]), int(self.tensor.shape[3])

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: int) -> Tensor:
        return self.tensor[index]

    def name(self, index: int) -> str:
        """The image's number."""
        return f"image {index}"

    def fingerprint(self) -> str:
        """A digest of all pixels."""
        return hashlib.sha256(self.tensor.contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Subset:
    """Some of the images of another collection.

    Attributes:
        base: All the images.
        indices: `(M,)` int64 numbers of the images in this subset, in order.
    """

    base: Images
    indices: Tensor

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        return self.base.channels

    @property
    def size(self) -> tuple[int, int] | None:
        """`(H, W)` in pixels if all images have the same size, else None."""
        return self.base.size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor:
        return self.base[int(self.indices[index])]

    def name(self, index: int) -> str:
        """The name the image has in the whole collection."""
        return self.base.name(int(self.indices[index]))

    def fingerprint(self) -> str:
        """A digest of the collection and of the indices."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        digest.update(self.indices.numpy().tobytes())
        return digest.hexdigest()


def root_folder(root: Path | None, source: str, contents: str) -> Path:
    """`root` if it is a folder.

    Args:
        root: The recipe's `data.root`.
        source: The name of the source that needs it.
        contents: The expected contents of the folder, for the message.

    Raises:
        VitrellisError: If it is not given, is missing, or is no folder.
    """
    hint = download_hint(source, root)
    if root is None:
        raise VitrellisError(f"source {source!r} needs data.root: a folder with {contents}{hint}")
    path = root.expanduser()
    if not path.exists():
        raise VitrellisError(f"data.root: no such folder: {path}. It should hold {contents}{hint}")
    if not path.is_dir():
        raise VitrellisError(f"data.root: not a folder: {path}. It should hold {contents}")
    return path


def download_hint(source: str, root: Path | None) -> str:
    """How a dataset can be downloaded, to be put behind a message; empty if it cannot be.

    Args:
        source: The name of the source.
        root: The folder into which it would go; None for the usual one.
    """
    if source not in DOWNLOADABLE:
        return ""
    option = "" if root is None else f" --root {shlex.quote(str(root))}"
    return f". `vitrellis data download {source}{option}` fetches it"


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(repr(name) for name in names[:5])
    return first if len(names) <= 5 else f"{first} and {len(names) - 5} more"
