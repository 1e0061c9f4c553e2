"""Fashion-MNIST: 28-pixel grey pictures of ten kinds of clothing (https://arxiv.org/abs/1708.07747).

A class-balanced part of it is in this package (`data/fashion_mnist/`, with its licence); the whole
dataset is read from a folder with the four original idx files.
"""

from __future__ import annotations

from pathlib import Path

from vitrellis.data.channels import to_channels
from vitrellis.data.formats.idx import read_idx_split
from vitrellis.data.source import Source, Split, TensorImages, download_hint, root_folder
from vitrellis.errors import VitrellisError

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The classes as the dataset's authors name them."""

PACKAGED = Path(__file__).parents[1] / "fashion_mnist"
"""The folder of the packaged part."""


def load_fashion_mnist(root: Path | None, channels: int | None = None) -> Source:
    """The packaged part of Fashion-MNIST, or the whole of it.

    Args:
        root: A folder with the four idx files (plain or `.gz`) for the 60,000 training and 10,000
            test images, or the folder into which torchvision downloaded them, without a validation
            split; None for the packaged 2,000 training, 1,000 validation and 4,000 test images, as
            many of each class.
        channels: 3 to repeat the grey channel; None or 1 to leave it.

    Raises:
        VitrellisError: If a file is missing or damaged.
    """
    if root is None:
        train, val, test = (_read(PACKAGED, part, (".xz",), channels) for part in _PARTS)
        return Source("fashion-mnist", CLASS_NAMES, train, val, test).checked()
    folder = root_folder(root, "fashion-mnist", _FOUR_FILES)
    if (folder / _BELOW).is_dir():
        folder = folder / _BELOW
    train, test = (_read(folder, part, ("", ".gz"), channels) for part in ("train", "t10k"))
    return Source("fashion-mnist", CLASS_NAMES, train, None, test).checked()


_BELOW = "FashionMNIST/raw"  # where torchvision puts the files
_PARTS = ("train", "val", "test")
_FOUR_FILES = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte, each plain or .gz"
)


def _read(folder: Path, part: str, suffixes: tuple[str, ...], channels: int | None) -> Split:
    split = read_idx_split(
        _find(folder, f"{part}-images-idx3-ubyte", suffixes),
        _find(folder, f"{part}-labels-idx1-ubyte", suffixes),
        size=(28, 28),
        classes=len(CLASS_NAMES),
    )
    if channels in (None, 1):
        return split
    assert isinstance(split.images, TensorImages)
    images = to_channels(split.images.tensor, channels, "fashion-mnist")
    return Split(TensorImages(images), split.labels)


def _find(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    for suffix in suffixes:
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    root = folder.parents[1] if folder.name == Path(_BELOW).name else folder
    hint = "" if folder == PACKAGED else download_hint("fashion-mnist", root)
    raise VitrellisError(f"{folder}: has no {name}. It should hold {_FOUR_FILES}{hint}")


def _is_fashion_mnist(root: Path) -> bool:
    return any(any(folder.glob("train-images*-ubyte*")) for folder in (root, root / _BELOW))


LAYOUTS = {"fashion-mnist": load_fashion_mnist}
RECOGNIZED_BY = {"fashion-mnist": _is_fashion_mnist}
