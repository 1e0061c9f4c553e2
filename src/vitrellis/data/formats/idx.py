"""The idx format of MNIST and its relatives: a few big-endian numbers, then plain bytes.

Two zero bytes, one byte for the element type, one for the number of dimensions, each dimension as
four bytes, then the elements in row-major order. Only unsigned bytes (type 0x08) are read.
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vitrellis.data.formats import read_file
from vitrellis.data.source import Split, TensorImages
from vitrellis.errors import VitrellisError

_UNSIGNED_BYTE = 0x08


def read_idx_split(images: Path, labels: Path, *, size: tuple[int, int], classes: int) -> Split:
    """Grey images and their labels from two idx files.

    Args:
        images: File of `(N, H, W)` bytes.
        labels: File of `(N,)` bytes.
        size: `(H, W)` that the images must have.
        classes: Number of classes; labels must be below it.

    Raises:
        VitrellisError: If a file is missing, damaged or of another shape, or the two do not match.
    """
    pixels = read_idx(images, dimensions=3)  # (N, H, W)
    numbers = read_idx(labels, dimensions=1)  # (N,)
    if pixels.shape[1:] != size:
        raise VitrellisError(
            f"{images}: has images of {pixels.shape[1]} x {pixels.shape[2]} pixels; "
            f"expected {size[0]} x {size[1]}"
        )
    if len(pixels) != len(numbers):
        raise VitrellisError(
            f"{labels}: has {len(numbers)} labels for the {len(pixels)} images in {images.name}"
        )
    if len(numbers) and numbers.max() >= classes:
        raise VitrellisError(
            f"{labels}: has label {numbers.max()}; {classes} classes are 0 to {classes - 1}"
        )
    return Split(
        TensorImages(torch.from_numpy(pixels).unsqueeze(1)),  # (N, 1, H, W)
        torch.from_numpy(numbers.astype(np.int64)),
    )


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in an idx file, which may be compressed (`.gz` or `.xz`).

    Args:
        path: The file.
        dimensions: Number of dimensions that the array must have.

    Raises:
        VitrellisError: If the file is missing, is no idx file of bytes, is shorter or longer than
            it says, or has another number of dimensions.
    """
    unpack = {".gz": gzip.decompress, ".xz": lzma.decompress}.get(path.suffix, bytes)
    try:
        file = io.BytesIO(unpack(read_file(path)))
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise VitrellisError(f"{path}: is damaged or cut off: {error}") from None
    shape = _read_shape(file, path, dimensions)
    content = file.read()
    if len(content) != math.prod(shape):
        raise VitrellisError(
            f"{path}: its header says {shape}, {math.prod(shape)} bytes, but {len(content)} "
            "follow; get the file again"
        )
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)


def _read_shape(file: io.BytesIO, path: Path, dimensions: int) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE:
        raise VitrellisError(
            f"{path}: is not an idx file of unsigned bytes: it begins with {magic.hex(' ')!r} "
            f"and should begin with '00 00 08 {dimensions:02x}'"
        )
    if magic[3] != dimensions:
        raise VitrellisError(f"{path}: has {magic[3]} dimensions; expected {dimensions}")
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise VitrellisError(f"{path}: ends within its header; get the file again")
    return tuple(int.from_bytes(sizes[4 * i : 4 * i + 4], "big") for i in range(dimensions))
