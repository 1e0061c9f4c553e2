"""Stored images for the loaders: one tensor on the device, or processes that read files.

Either yields uint8 images at the size at which they are stored, on the device, by their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vitrellis.data.canvas import ProgressCallback, StoredSize, read_stored
from vitrellis.data.pixel_cache import DecodedImages
from vitrellis.data.reading_processes import ReadingProcesses
from vitrellis.data.source import Images


class ImageStore(Protocol):
    """Stored images by their numbers."""

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """uint8 `(b, C, H, W)` for each of the batches of image numbers, `(b,)`."""
        ...


def open_store(
    images: Images,
    *,
    decoded: DecodedImages | None,
    device: torch.device,
    stored: StoredSize,
    cache: bool,
    workers: int,
    progress: ProgressCallback | None,
) -> ImageStore:
    """The store that a loader needs; its arguments are the loader's.

    Where all images are held, they are copied from `decoded` if a cache has them.

    Raises:
        VitrellisError: If an image cannot be read.
    """
    if cache and decoded is not None:
        return CachedImages(decoded.stacked().to(device))
    if cache:
        return CachedImages(read_stored(images, stored, progress).to(device))
    return Stream(images, device=device, stored=stored, workers=workers)


@dataclass(frozen=True)
class CachedImages:
    """All images as one tensor.

    Attributes:
        tensor: uint8 `(N, C, H, W)`.
    """

    tensor: Tensor

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Copies out of the tensor."""
        for indices in batches:
            yield self.tensor.index_select(0, indices.to(self.tensor.device, non_blocking=True))


class Stream:
    """Reads images when they are needed, some batches ahead, in worker processes.

    Args:
        images: The images to read.
        device: The device that batches are moved to.
        stored: Brings images to the size of the batches.
        workers: Number of processes; 0 reads in this one.
    """

    def __init__(
        self,
        images: Images,
        *,
        device: torch.device,
        stored: StoredSize,
        workers: int,
    ) -> None:
        self._device = device
        self._processes = ReadingProcesses(
            _StoredImages(images, stored), workers=workers, pinned=device.type == "cuda"
        )

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Reads the batches in their order.

        Raises:
            VitrellisError: If an image cannot be read, or the system ended a process.
        """
        for images in self._processes.read(indices.tolist() for indices in batches):
            yield images.to(self._device, non_blocking=True)


@dataclass(frozen=True)
class _StoredImages:
    """Reads a batch in a worker, every image once."""

    images: Images
    stored: StoredSize

    def __call__(self, indices: list[int]) -> Tensor:
        read = {index: self.stored(self.images[index]) for index in dict.fromkeys(indices)}
        return torch.stack([read[index] for index in indices])
