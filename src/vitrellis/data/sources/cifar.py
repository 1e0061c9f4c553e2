"""CIFAR-10 and CIFAR-100 from their original python archives, unpacked.

https://www.cs.toronto.edu/~kriz/cifar.html. The archives are pickles; they are read without
executing anything (see `plain_pickle`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrellis.data.channels import to_channels
from vitrellis.data.formats.plain_pickle import read_plain_pickle
from vitrellis.data.source import Source, Split, TensorImages, root_folder
from vitrellis.errors import VitrellisError


def load_cifar10(root: Path | None, channels: int | None = None) -> Source:
    """CIFAR-10: 50,000 training and 10,000 test images of 32 pixels, ten classes.

    Args:
        root: `cifar-10-batches-py`, or the folder that holds it.
        channels: 1 to make the images grey; None or 3 to leave them.

    Raises:
        VitrellisError: If a file is missing, damaged, or not the original.
    """
    return _load(_CIFAR10, root, channels)


def load_cifar100(root: Path | None, channels: int | None = None) -> Source:
    """CIFAR-100: 50,000 training and 10,000 test images of 32 pixels, a hundred (fine) classes.

    Args:
        root: `cifar-100-python`, or the folder that holds it.
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
    folder = _find_folder(layout, root)
    class_names = _read_class_names(folder / layout.meta, layout.names_key)
    train, test = (
        _read_split([folder / name for name in names], layout.labels_key, class_names, channels)
        for names in (layout.train, (layout.test,))
    )
    return Source(layout.name, class_names, train, None, test).checked()


def _find_folder(layout: _Layout, root: Path | None) -> Path:
    files = (*layout.train, layout.test, layout.meta)
    contents = f"{layout.folder}/ (from {layout.archive}), which holds {', '.join(files)}"
    parent = root_folder(root, layout.name, contents)
    for folder in (parent / layout.folder, parent):
        if any((folder / name).is_file() for name in files):
            return folder
    for packed in (parent / layout.archive, parent.parent / layout.archive):
        if packed.is_file():
            raise VitrellisError(f"{packed}: is still packed; unpack it with: tar xzf {packed}")
    raise VitrellisError(f"data.root: {parent} does not hold {contents}")


def _read_class_names(path: Path, key: str) -> tuple[str, ...]:
    names = _value(read_plain_pickle(path), key, path)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise VitrellisError(f"{path}: {key!r} should be a list of class names")
    try:
        return tuple(name.decode() if isinstance(name, bytes) else name for name in names)
    except UnicodeDecodeError as error:
        raise VitrellisError(f"{path}: {key!r} is not readable as text: {error}") from None


def _read_split(
    paths: list[Path], labels_key: str, class_names: tuple[str, ...], channels: int | None
) -> Split:
    images, labels = [], []
    for path in paths:
        batch = read_plain_pickle(path)
        images.append(_images(_value(batch, "data", path), path))
        labels.append(_labels(_value(batch, labels_key, path), labels_key, path, len(class_names)))
        if len(images[-1]) != len(labels[-1]):
            raise VitrellisError(
                f"{path}: {len(labels[-1])} {labels_key!r} for {len(images[-1])} rows of 'data'"
            )
    stacked = torch.from_numpy(np.concatenate(images))  # (N, 3, 32, 32)
    if channels is not None:
        stacked = to_channels(stacked, channels, str(paths[0]))
    return Split(TensorImages(stacked), torch.cat(labels))


def _value(content: object, key: str, path: Path) -> object:
    """The value of a file's dict for `key`, which Python 2 wrote as bytes."""
    if not isinstance(content, dict):
        raise VitrellisError(f"{path}: should hold a dict, and holds a {type(content).__name__}")
    for spelling in (key.encode(), key):
        if spelling in content:
            value: object = content[spelling]
            return value
    raise VitrellisError(f"{path}: has no {key!r}; is it a file of this dataset?")


def _images(rows: object, path: Path) -> npt.NDArray[np.uint8]:
    """`(N, 3072)` rows, a plane of each colour after the other, as `(N, 3, 32, 32)`."""
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (3072,):
        kind = (
            f"{rows.dtype} of shape {rows.shape}"
            if isinstance(rows, np.ndarray)
            else f"a {type(rows).__name__}"
        )
        raise VitrellisError(f"{path}: 'data' should be uint8 of shape (N, 3072), and is {kind}")
    return rows.reshape(-1, 3, 32, 32)


def _labels(numbers: object, key: str, path: Path, num_classes: int) -> Tensor:
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
    "cifar10": lambda root: any(
        (path / "data_batch_1").is_file() for path in (root, root / "cifar-10-batches-py")
    ),
    "cifar100": lambda root: any(
        (path / "meta").is_file() and (path / "train").is_file()
        for path in (root, root / "cifar-100-python")
    ),
}
