"""CIFAR-10 and CIFAR-100 from their original python archives, unpacked.

https://www.cs.toronto.edu/~kriz/cifar.html. The archives are pickles; they are read without
executing anything (see `plain_pickle`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrellis.data.channels import to_channels
from vitrellis.data.formats.archive import read_members
from vitrellis.data.formats.plain_pickle import parse_plain_pickle, read_plain_pickle
from vitrellis.data.source import Source, Split, TensorImages, download_hint, root_folder
from vitrellis.errors import VitrellisError


def load_cifar10(root: Path | None, channels: int | None = None) -> Source:
    """CIFAR-10: 50,000 training and 10,000 test images of 32 pixels, ten classes.

    Args:
        root: `cifar-10-batches-py`, or the folder that holds it or its `.tar.gz`.
        channels: 1 to make the images grey; None or 3 to leave them.

    Raises:
        VitrellisError: If a file is missing, damaged, or not the original.
    """
    return _load(_CIFAR10, root, channels)


def load_cifar100(root: Path | None, channels: int | None = None) -> Source:
    """CIFAR-100: 50,000 training and 10,000 test images of 32 pixels, a hundred (fine) classes.

    Args:
        root: `cifar-100-python`, or the folder that holds it or its `.tar.gz`.
        channels: 1 to make the images grey; None or 3 to leave them.

    Raises:
        VitrellisError: If a file is missing, damaged, or not the original.
    """
    return _load(_CIFAR100, root, channels)


@dataclass(frozen=True)
class _Layout:
    """The layout of one of the two archives."""

    name: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: str
    names_key: str


_CIFAR10 = _Layout(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels_key="labels",
    names_key="label_names",
)
_CIFAR100 = _Layout(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train=("train",),
    test="test",
    meta="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
)


def _load(layout: _Layout, root: Path | None, channels: int | None) -> Source:
    contents = _read_files(layout, root)
    meta, train_files, test_file = contents[0], contents[1:-1], contents[-1]
    class_names = _read_class_names(meta, layout.names_key)
    train, test = (
        _read_split(files, layout.labels_key, class_names, channels)
        for files in (train_files, [test_file])
    )
    return Source(layout.name, class_names, train, None, test).checked()


class _File(NamedTuple):
    """One of the files of the archive."""

    name: str
    """Its path, for messages."""
    content: object
    """The plain values in it."""


def _read_files(layout: _Layout, root: Path | None) -> list[_File]:
    """The files of class names, of training and of test images, from the folder or the archive."""
    place = _find(layout, root)
    names = [layout.meta, *layout.train, layout.test]
    if place.is_dir():
        return [_File(str(place / name), read_plain_pickle(place / name)) for name in names]
    contents = read_members(place, [f"{layout.folder}/{name}" for name in names])
    return [_File(name, parse_plain_pickle(content, name)) for name, content in contents.items()]


def _find(layout: _Layout, root: Path | None) -> Path:
    """The unpacked folder, or else the archive as it is downloaded."""
    files = (*layout.train, layout.test, layout.meta)
    contents = f"{layout.folder}/ (from {layout.archive}), which holds {', '.join(files)}"
    parent = root_folder(root, layout.name, contents)
    for folder in (parent / layout.folder, parent):
        if any((folder / name).is_file() for name in files):
            return folder
    for packed in (parent / layout.archive, parent.parent / layout.archive):
        if packed.is_file():
            return packed
    hint = download_hint(layout.name, root)
    raise VitrellisError(f"data.root: {parent} does not hold {contents}{hint}")


def _read_class_names(file: _File, key: str) -> tuple[str, ...]:
    path, names = file.name, _value(file.content, key, file.name)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise VitrellisError(f"{path}: {key!r} should be a list of class names")
    try:
        return tuple(name.decode() if isinstance(name, bytes) else name for name in names)
    except UnicodeDecodeError as error:
        raise VitrellisError(f"{path}: {key!r} is not readable as text: {error}") from None


def _read_split(
    files: list[_File], labels_key: str, class_names: tuple[str, ...], channels: int | None
) -> Split:
    images, labels = [], []
    for path, batch in files:
        images.append(_images(_value(batch, "data", path), path))
        labels.append(_labels(_value(batch, labels_key, path), labels_key, path, len(class_names)))
        if len(images[-1]) != len(labels[-1]):
            raise VitrellisError(
                f"{path}: {len(labels[-1])} {labels_key!r} for {len(images[-1])} rows of 'data'"
            )
    stacked = torch.from_numpy(np.concatenate(images))  # (N, 3, 32, 32)
    if channels is not None:
        stacked = to_channels(stacked, channels, files[0].name)
    return Split(TensorImages(stacked), torch.cat(labels))


def _value(content: object, key: str, path: str) -> object:
    """The value of a file's dict for `key`, which Python 2 wrote as bytes."""
    if not isinstance(content, dict):
        raise VitrellisError(f"{path}: should hold a dict, and holds a {type(content).__name__}")
    for spelling in (key.encode(), key):
        if spelling in content:
            value: object = content[spelling]
            return value
    raise VitrellisError(f"{path}: has no {key!r}; is it a file of this dataset?")


def _images(rows: object, path: str) -> npt.NDArray[np.uint8]:
    """`(N, 3072)` rows, a plane of each colour after the other, as `(N, 3, 32, 32)`."""
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (3072,):
        kind = (
            f"{rows.dtype} of shape {rows.shape}"
            if isinstance(rows, np.ndarray)
            else f"a {type(rows).__name__}"
        )
        raise VitrellisError(f"{path}: 'data' should be uint8 of shape (N, 3072), and is {kind}")
    return rows.reshape(-1, 3, 32, 32)


def _labels(numbers: object, key: str, path: str, num_classes: int) -> Tensor:
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise VitrellisError(f"{path}: {key!r} should be a list of whole numbers")
    outside = next((number for number in numbers if not 0 <= number < num_classes), None)
    if outside is not None:
        raise VitrellisError(
            f"{path}: {key!r} has {outside}; with {num_classes} class names, labels are 0 to "
            f"{num_classes - 1}"
        )
    return torch.tensor(numbers, dtype=torch.int64)


LAYOUTS = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}
RECOGNIZED_BY = {
    "cifar10": lambda root: (
        (root / _CIFAR10.archive).is_file()
        or any((path / "data_batch_1").is_file() for path in (root, root / _CIFAR10.folder))
    ),
    "cifar100": lambda root: (
        (root / _CIFAR100.archive).is_file()
        or any(
            (path / "meta").is_file() and (path / "train").is_file()
            for path in (root, root / _CIFAR100.folder)
        )
    ),
}
