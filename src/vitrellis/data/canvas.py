"""How a run's training images are stored before they are augmented.

Small images of one size are stored as they are, and whole images at the model's size: on a canvas,
as one tensor, from which the device cuts the crops of a batch. Photographs keep their own shape, so
that random crops are cut from their own pixels (`vitrellis.data.crop_store`). Evaluation has no
part in this: `vitrellis.data.eval_transform` resizes images in one step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vitrellis.data.augmentation.resampling import Interpolation, resize_bytes
from vitrellis.data.augmentation.threads import pool_of_threads
from vitrellis.data.source import Images, Split, Subset, TensorImages

Fit = Literal["squash", "crop"]
"""How whole images of another shape are made to fit: squashed, or by cutting out their middle."""
ProgressCallback = Callable[[int, int], None]
"""Called with the number of images that are done, and the number of all."""

SMALL = 2.0
"""Sides of an image over the model's, up to which it is small: crops are cut on the device from it,
and it may be resized twice, because that costs next to no sharpness."""
ALIKE = 1.15
"""Sides of images of one size over the model's, up to which whole images are stored as they are."""
MEASURED_IMAGES = 2000
"""Greatest number of image files that a normalisation is measured on, evenly spread."""
_PART = 500  # images that are in memory at a time while they are measured
SAMPLED_IMAGES = 32
"""Greatest number of image files that are read to tell how large they are."""
MEMORY_SHARE = 0.3
"""Share of the free memory that images may take."""
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""The file in which Linux says how many bytes a container may use, or `max`."""


class StoredSize(Protocol):
    """Brings single images to the one size at which they are stored."""

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` in pixels of the stored images."""
        ...

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(C, H, W)` of any size to uint8 `(C, *size)`."""
        ...


@dataclass(frozen=True)
class Canvas:
    """One size for all training images.

    Attributes:
        size: `(H, W)` in pixels.
        fit: How images are brought to it, see `to_canvas`.
        interpolation: The kernel for that.
    """

    size: tuple[int, int]
    fit: Fit = "squash"
    interpolation: Interpolation = "bicubic"

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(C, H, W)` of any size to uint8 `(C, *size)`."""
        return to_canvas(image, self.size, self.fit, self.interpolation)


@dataclass(frozen=True)
class OwnShape:
    """Training images that keep their own shape, for crops from their own pixels.

    Attributes:
        covered: `(h, w)` in pixels, which every image that is reduced still covers; None for images
            as they are.
        interpolation: The kernel for reducing, antialiased.
    """

    covered: tuple[int, int] | None = None
    interpolation: Interpolation = "bicubic"

    def size_of(self, own: tuple[int, int]) -> tuple[int, int]:
        """The size `(H, W)` at which an image of the size `own` is stored; never a larger one."""
        if self.covered is None:
            return own
        factor = min(own[0] / self.covered[0], own[1] / self.covered[1])
        if factor <= 1:
            return own
        height, width = (
            max(round(side / factor), least) for side, least in zip(own, self.covered, strict=True)
        )
        return height, width

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(C, H, W)` to uint8 `(C, *size_of((H, W)))`."""
        height, width = image.shape[-2:]
        size = self.size_of((height, width))
        if size == (height, width):
            return image
        return resize_bytes(image, size, self.interpolation)


@dataclass(frozen=True)
class OnCanvas:
    """Images as they are stored before they are augmented.

    Attributes:
        base: The images.
        canvas: How they are stored.
    """

    base: Images
    canvas: Canvas | OwnShape

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        return self.base.channels

    @property
    def size(self) -> tuple[int, int] | None:
        """`(H, W)` in pixels if all have the same size, else None."""
        if isinstance(self.canvas, Canvas):
            return self.canvas.size
        return None if self.base.size is None else self.canvas.size_of(self.base.size)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Tensor:
        return self.canvas(self.base[index])

    def name(self, index: int) -> str:
        """The name of the image itself."""
        return self.base.name(index)

    def fingerprint(self) -> str:
        """That of the images, with the canvas."""
        return f"{self.base.fingerprint()} {self.canvas}"


def canvas_for(
    images: Images,
    img_size: tuple[int, int],
    *,
    smallest: float | None,
    fit: Fit = "squash",
    interpolation: Interpolation = "bicubic",
    reduced: bool = True,
) -> Canvas | OwnShape:
    """How images are stored so that augmentation loses nothing.

    Args:
        images: The images of the training split.
        img_size: `(H, W)` in pixels that the model sees.
        smallest: Smallest share of the area that a random crop shows; None without such crops.
        fit: How whole images of another shape are made to fit.
        interpolation: The kernel.
        reduced: Whether large images are reduced as far as `smallest` allows: the smallest crop
            still has as many pixels as the model sees, and the whole image twice its sides.

    Returns:
        A canvas for small images of one size, and for images that are shown whole; otherwise their
        own shape.
    """
    own = images.size
    if smallest is None:
        if own is not None and _fits_into(own, img_size, ALIKE):
            is_alike = own[0] * img_size[1] == own[1] * img_size[0]
            if fit == "squash" or is_alike:
                return Canvas(own, fit, interpolation)
        return Canvas(img_size, fit, interpolation)
    factor = max(SMALL, smallest**-0.5)
    covered = (math.ceil(factor * img_size[0]), math.ceil(factor * img_size[1]))
    shape = OwnShape(covered if reduced else None, interpolation)
    if own is not None and _fits_into(shape.size_of(own), img_size, SMALL):
        return Canvas(shape.size_of(own), interpolation=interpolation)
    return shape


def _fits_into(size: tuple[int, int], img_size: tuple[int, int], factor: float) -> bool:
    return all(side <= round(factor * seen) for side, seen in zip(size, img_size, strict=True))


def to_canvas(
    image: Tensor, canvas: tuple[int, int], fit: Fit, interpolation: Interpolation = "bicubic"
) -> Tensor:
    """Brings one image to the canvas.

    Args:
        image: uint8 `(C, H, W)`.
        canvas: `(H, W)` in pixels.
        fit: "squash" resizes the whole image; "crop" keeps its shape and cuts off what is over.
        interpolation: The kernel, antialiased.

    Returns:
        uint8 `(C, *canvas)`.
    """
    height, width = image.shape[-2:]
    if (height, width) == canvas:
        return image
    if fit == "squash":
        return _resize(image, canvas, interpolation)
    factor = max(canvas[0] / height, canvas[1] / width)
    # the far ends of a panorama are cut off beforehand: enlarged, they could take gigabytes
    limits = [2 * -(-side // factor) + 8 for side in canvas]
    height, width = min(height, int(limits[0])), min(width, int(limits[1]))
    image = TF.center_crop(image, [height, width])
    size = (max(canvas[0], round(height * factor)), max(canvas[1], round(width * factor)))
    return TF.center_crop(_resize(image, size, interpolation), list(canvas))


def read_stored(
    images: Images, stored: StoredSize, progress: ProgressCallback | None = None
) -> Tensor:
    """All images, decoded by threads.

    Args:
        images: The images to read.
        stored: Brings them to the size at which they are stored.
        progress: Called after every image.

    Returns:
        uint8 `(N, C, H, W)` on the CPU, possibly the images' own memory.

    Raises:
        VitrellisError: Naming an image that cannot be read.
    """
    tensor = _held_in_memory(images)
    if tensor is not None and isinstance(stored, Canvas) and tensor.shape[-2:] == stored.size:
        return tensor
    out = torch.empty(len(images), images.channels, *stored.size, dtype=torch.uint8)

    def read(index: int) -> None:
        out[index] = stored(images[index])

    with pool_of_threads(os.cpu_count() or 1, "decoding") as pool:
        for count, _ in enumerate(pool.map(read, range(len(images))), start=1):
            if progress is not None:
                progress(count, len(images))
    return out


def measure_normalization(
    split: Split, canvas: tuple[int, int], fit: Fit, progress: ProgressCallback | None = None
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the images, in [0, 1].

    Args:
        split: The training split; at most `MEASURED_IMAGES` of its files are read.
        canvas: `(H, W)` at which images are stored.
        fit: How images are brought to the canvas.
        progress: Called after every image.
    """
    count = len(split)
    if _held_in_memory(split.images) is None:
        count = min(count, MEASURED_IMAGES)
    sample = torch.arange(count) * len(split) // count
    histogram = torch.zeros(split.images.channels, 256, dtype=torch.int64)
    for number, part in enumerate(sample.split(_PART)):

        def read(done: int, _: int, before: int = number * _PART) -> None:
            if progress is not None:
                progress(before + done, count)

        pixels = read_stored(split.subset(part).images, Canvas(canvas, fit), read)  # (n, C, H, W)
        for counts, channel in zip(histogram, pixels.unbind(dim=1), strict=True):
            counts += torch.bincount(channel.flatten(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    shares = histogram / histogram.sum(dim=1, keepdim=True)  # (C, 256)
    mean = shares.double() @ levels
    variance = (shares.double() * (levels - mean[:, None]).square()).sum(dim=1)
    # images of one flat colour must not divide by zero
    return mean.tolist(), variance.sqrt().clamp_min(1 / 255).tolist()


def fit_in_memory(
    images: Images, stored: StoredSize | OwnShape, device: torch.device, processes: int = 1
) -> bool:
    """Whether images can be held: on the device, or, at their own shape, in the computer's memory.

    Args:
        images: The images. Where they have no common size, some are read to tell.
        stored: How they are stored.
        device: The device that would hold them.
        processes: Number of processes on this computer, each of which would hold all of them.

    Raises:
        VitrellisError: If an image cannot be read.
    """
    if isinstance(stored, OwnShape):
        device = torch.device("cpu")
        size = None if images.size is None else stored.size_of(images.size)
    else:
        size = stored.size
    pixels = size[0] * size[1] if size is not None else mean_pixels(images, stored)
    if device.type == "cuda":  # each process has its own
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = _free_memory() // processes
    return len(images) * images.channels * pixels <= MEMORY_SHARE * free


def mean_pixels(images: Images, stored: StoredSize | OwnShape) -> float:
    """The mean number of pixels of stored images, of some that are evenly spread.

    Raises:
        VitrellisError: If one of these cannot be read.
    """
    count = min(len(images), SAMPLED_IMAGES)
    sample = (torch.arange(count) * len(images) // count).tolist()
    with pool_of_threads(os.cpu_count() or 1, "decoding") as pool:
        return sum(pool.map(lambda index: stored(images[index])[0].numel(), sample)) / count


def _resize(image: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    return TF.resize(image, list(size), InterpolationMode(interpolation), antialias=True)


def _held_in_memory(images: Images) -> Tensor | None:
    """The images as one tensor, if that is what they are."""
    if isinstance(images, TensorImages):
        return images.tensor
    if isinstance(images, Subset):
        base = _held_in_memory(images.base)
        return None if base is None else base[images.indices]
    return None


def _free_memory() -> int:
    """Bytes of memory that are free without swapping; caches count, because they make room."""
    free = int(psutil.virtual_memory().available)
    if CONTAINER_LIMIT.exists() and (limit := CONTAINER_LIMIT.read_text().strip()).isdigit():
        free = min(free, int(limit))
    return free
