"""One file of decoded images: their pixels, each row after row, and an index behind them.

It is mapped into memory and never changed. The index has a checksum that is compared when the file
is opened, and one of each image, which is compared when the image is first used.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrellis.errors import VitrellisError

_ALIGNMENT = 64
_HEAD = b"vitrellis pixels".ljust(_ALIGNMENT, b"\0")
_FOOT = struct.Struct("<16sQQQI4x")
"""A magic word, the number of images, their channels, the index's place and its checksum."""
_MAGIC = b"vitrellis index "
_ROW = 4  # place, height, width and checksum of an image: so many int64


class PixelFile:
    """The images of a file.

    Args:
        path: The file.

    Attributes:
        path: The file.
        sizes: `(N, 2)` int64 heights and widths; 0 where an image is missing.
        channels: Channels of every image.

    Raises:
        VitrellisError: If it is no such file, or is damaged or cut off.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._index, self.channels = _read_index(file, path)
        with warnings.catch_warnings():  # nobody writes to the images
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._pixels = torch.from_numpy(np.memmap(path, np.uint8, "r"))
        self.sizes = torch.from_numpy(self._index[:, 1:3].copy())
        self._is_sound = bytearray(len(self._index))

    def __len__(self) -> int:
        return len(self._index)

    def read(self, number: int) -> Tensor | None:
        """An image, uint8 `(C, H, W)`, the channels of a pixel side by side; never to be written.

        Returns:
            None if its pixels are damaged, or it is missing.
        """
        place, height, width, checksum = self._index[number].tolist()
        flat = self._pixels[place : place + height * width * self.channels]
        if not self._is_sound[number]:
            if height == 0 or zlib.crc32(flat.numpy().data) != checksum:
                return None
            self._is_sound[number] = 1
        return flat.view(height, width, self.channels).permute(2, 0, 1)


def write_pixels(
    file: BinaryIO, images: Iterable[Tensor | None], channels: int, limit: int
) -> bool:
    """Writes a file of pixels.

    Args:
        file: An empty file.
        images: uint8 `(C, H, W)`; None for an image that is missing.
        channels: C.
        limit: Greatest number of bytes.

    Returns:
        Whether they fit; if not, the file is unfinished.

    Raises:
        OSError: If it cannot be written.
    """
    file.write(_HEAD)
    place, rows = len(_HEAD), []
    for image in images:
        if image is None:
            rows.append([place, 0, 0, 0])
            continue
        height, width = image.shape[1:]
        content = np.ascontiguousarray(image.permute(1, 2, 0).numpy()).reshape(-1)
        rows.append([place, height, width, zlib.crc32(content.data)])
        padding = -len(content) % _ALIGNMENT
        place += len(content) + padding
        if place > limit:
            return False
        file.write(content.data)
        file.write(bytes(padding))
    index = np.array(rows, "<i8").reshape(-1, _ROW).tobytes()
    file.write(index)
    file.write(_FOOT.pack(_MAGIC, len(rows), channels, place, zlib.crc32(index)))
    file.flush()
    return True


def _read_index(file: BinaryIO, path: Path) -> tuple[npt.NDArray[np.int64], int]:
    """The rows of all images, `(N, 4)`, and the number of channels."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    damage = VitrellisError(f"{path}: is no file of decoded images, or damaged or cut off")
    if length < len(_HEAD) + _FOOT.size or file.read(len(_HEAD)) != _HEAD:
        raise damage
    file.seek(length - _FOOT.size)
    magic, count, channels, place, checksum = _FOOT.unpack(file.read(_FOOT.size))
    if magic != _MAGIC or place + 8 * _ROW * count + _FOOT.size != length:
        raise damage
    file.seek(place)
    content = file.read(8 * _ROW * count)
    if zlib.crc32(content) != checksum:
        raise damage
    index = np.frombuffer(content, "<i8").reshape(count, _ROW).astype(np.int64)
    ends = index[:, 0] + index[:, 1] * index[:, 2] * channels
    if (index < 0).any() or (ends > place).any():
        raise damage
    return index, channels
