"""Make the part of Fashion-MNIST that lies in the package, from the four original files.

    python tools/make_fashion_mnist_subset.py /usr/share/datasets/fashion-mnist

Of each class, those images are taken whose pixels have the smallest SHA-256 digests: a choice as
good as random that depends on no random number generator. 100 training images become the
validation split, the next 200 the training split, and 400 test images the test split. They keep
their original order, and are written as idx files, compressed with xz. Running it again gives the
same bytes (with the same liblzma).
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitrellis.data.source import Split, TensorImages
from vitrellis.data.sources.fashion_mnist import CLASS_NAMES, PACKAGED, load_fashion_mnist

VAL_PER_CLASS, TRAIN_PER_CLASS, TEST_PER_CLASS = 100, 200, 400
Bytes = npt.NDArray[np.uint8]


def make(folder: Path, out: Path) -> None:
    """Write the six files to `out`.

    Args:
        folder: Holds the four original idx files.
        out: An existing folder.
    """
    original = load_fashion_mnist(folder)
    assert original.test is not None
    images, labels = _arrays(original.train)
    val, train = choose(images, labels, (VAL_PER_CLASS, TRAIN_PER_CLASS))
    _write(out, "val", images[val], labels[val])
    _write(out, "train", images[train], labels[train])
    images, labels = _arrays(original.test)
    (test,) = choose(images, labels, (TEST_PER_CLASS,))
    _write(out, "test", images[test], labels[test])


def choose(images: Bytes, labels: Bytes, per_class: Sequence[int]) -> list[list[int]]:
    """Disjoint choices of images, in their original order.

    Args:
        images: `(N, H, W)`.
        labels: `(N,)`.
        per_class: For each choice, how many images of every class.
    """
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    choices: list[list[int]] = [[] for _ in per_class]
    for number in range(len(CLASS_NAMES)):
        members = sorted(np.flatnonzero(labels == number).tolist(), key=digests.__getitem__)
        start = 0
        for choice, count in zip(choices, per_class, strict=True):
            choice += members[start : start + count]
            start += count
    return [sorted(choice) for choice in choices]


def _arrays(split: Split) -> tuple[Bytes, Bytes]:
    assert isinstance(split.images, TensorImages)
    return split.images.tensor[:, 0].numpy(), split.labels.numpy().astype(np.uint8)


def _write(out: Path, part: str, images: Bytes, labels: Bytes) -> None:
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        sizes = b"".join(length.to_bytes(4, "big") for length in array.shape)
        content = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
        packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
        (out / f"{part}-{kind}-ubyte.xz").write_bytes(packed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the four original idx files are")
    parser.add_argument("--out", type=Path, default=PACKAGED, help="where to write (the package)")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.out)
