"""Oxford Flowers-102: 8,189 photographs of 102 kinds of flowers.

Nilsback and Zisserman, ICVGIP 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/102. The
official training and validation images have ten of each class, the test images are the other 6,149.
Published results on training from scratch (github.com/lkhl/tiny-transformers, and papers that
compare with it) train on both, 2,040 images; so does this source, and a validation split is cut
from them (`data.val_fraction`, 0 as published). `official_val` gives the three original splits.

Labels 1 to 102 of the files are class indices 0 to 101 here, in the same order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision.datasets import Flowers102

from vitrellis.data.formats.mat import read_mat
from vitrellis.data.source import Source, Split, download_hint, root_folder
from vitrellis.data.sources.files import ImageFiles
from vitrellis.errors import UsageError, VitrellisError

NUM_CLASSES = 102

_CONTENTS = "jpg/ with image_00001.jpg and so on, imagelabels.mat and setid.mat"


def load_flowers102(
    root: Path | None, channels: int | None = None, *, official_val: bool = False
) -> Source:
    """Flowers-102, trained on its training and validation images together, as published.

    Args:
        root: The folder of `jpg/`, `imagelabels.mat` and `setid.mat`, or the one that holds it.
        channels: 1 to make the images grey; None or 3 for colour.
        official_val: Train on the 1,020 official training images alone, and validate on the 1,020
            validation images.

    Raises:
        UsageError: If `official_val` is neither true nor false.
        VitrellisError: If a file is missing, or holds something else.
    """
    if not isinstance(official_val, bool):
        raise UsageError(f"data.args.official_val: {official_val!r}; should be true or false")
    folder = _find_folder(root)
    labels = _numbers(folder / "imagelabels.mat", "labels", NUM_CLASSES)
    train, val, test = (
        _numbers(folder / "setid.mat", key, len(labels)) for key in ("trnid", "valid", "tstid")
    )
    if not official_val:
        train = np.concatenate([train, val])

    def split(numbers: npt.NDArray[np.int64]) -> Split:
        """The images of these numbers, which begin at 1, as labels do."""
        paths = [f"jpg/image_{number:05}.jpg" for number in numbers]
        images = ImageFiles.unopened(folder, paths, channels or 3, named_in=folder / "setid.mat")
        return Split(images, torch.from_numpy(labels[numbers - 1] - 1))

    return Source(
        "flowers102",
        tuple(Flowers102.classes),
        split(train),
        split(val) if official_val else None,
        split(test),
    ).checked()


def _find_folder(root: Path | None) -> Path:
    parent = root_folder(root, "flowers102", _CONTENTS)
    for folder in (parent, *(parent / name for name in ("flowers", "flowers-102", "102flowers"))):
        if (folder / "setid.mat").is_file():
            return folder
    hint = download_hint("flowers102", root)
    raise VitrellisError(f"data.root: {parent} has no setid.mat. It should hold {_CONTENTS}{hint}")


def _numbers(file: Path, key: str, highest: int) -> npt.NDArray[np.int64]:
    """The `(N,)` whole numbers from 1 to `highest` that a file has under `key`."""
    values = read_mat(file, key).ravel()
    numbers: npt.NDArray[np.int64] = values.astype(np.int64)
    if not len(values) or (numbers != values).any():
        raise VitrellisError(f"{file}: {key!r} should be whole numbers")
    if numbers.min() < 1 or numbers.max() > highest:
        outside = numbers.min() if numbers.min() < 1 else numbers.max()
        raise VitrellisError(f"{file}: {key!r} has {outside}; expected 1 to {highest}")
    return numbers


LAYOUTS = {"flowers102": load_flowers102}
RECOGNIZED_BY = {
    "flowers102": lambda root: any(
        (folder / "setid.mat").is_file()
        for folder in (root, root / "flowers", root / "flowers-102")
    )
}
