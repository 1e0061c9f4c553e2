"""The canvas: the one size at which a run's training images are stored before they are augmented.

Evaluation has no part in it: `vitrellis.data.eval_transform` resizes images in one step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vitrellis.data.source import Images, Split, Subset, TensorImages

Fit = Literal["squash", "crop"]
ProgressCallback = Callable[[int, int], None]
"""Called with the number of images that are done, and the number of all."""

MARGIN = 1.15
"""Greatest side of a stored image over the side that the model sees: room for crops."""
MEASURED_IMAGES = 2000
"""Greatest number of image files that a normalisation is measured on, evenly spread."""
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
    """The canvas of training images.

    Attributes:
        size: `(H, W)` in pixels.
        fit: How images are brought to it, see `to_canvas`.
    """

    size: tuple[int, int]
    fit: Fit = "squash"

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(C, H, W)` of any size to uint8 `(C, *size)`."""
        return to_canvas(image, self.size, self.fit)


@dataclass(frozen=True)
class OnCanvas:
    """Images as they are stored before they are augmented.

    Attributes:
        base: The images.
        canvas: The canvas.
    """

    base: Images
    canvas: Canvas

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        return self.base.channels

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` in pixels."""
        return self.canvas.size

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


def canvas_for(images: Images, img_size: tuple[int, int]) -> tuple[int, int]:
    """The size at which images are stored: their own, if they all have it and it is not too large.

    Args:
        images: The images of the training split.
        img_size: `(H, W)` in pixels that the model sees.
    """
    limit = (round(MARGIN * img_size[0]), round(MARGIN * img_size[1]))
    size = images.size
    if size is not None and size[0] <= limit[0] and size[1] <= limit[1]:
        return size
    return limit


def to_canvas(image: Tensor, canvas: tuple[int, int], fit: Fit) -> Tensor:
    """Brings one image to the canvas.

    Args:
        image: uint8 `(C, H, W)`.
        canvas: `(H, W)` in pixels.
        fit: "squash" resizes the whole image; "crop" keeps its shape and cuts off what is over.

    Returns:
        uint8 `(C, *canvas)`.
    """
    height, width = image.shape[-2:]
    if (height, width) == canvas:
        return image
    if fit == "squash":
        return _resize(image, canvas)
    factor = max(canvas[0] / height, canvas[1] / width)
    # the far ends of a panorama are cut off beforehand: enlarged, they could take gigabytes
    limits = [2 * -(-side // factor) + 8 for side in canvas]
    height, width = min(height, int(limits[0])), min(width, int(limits[1]))
    image = TF.center_crop(image, [height, width])
    size = (max(canvas[0], round(height * factor)), max(canvas[1], round(width * factor)))
    return TF.center_crop(_resize(image, size), list(canvas))


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

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for count, _ in enumerate(pool.map(read, range(len(images))), start=1):
            if progress is not None:
                progress(count, len(images))
    return out


def measure_normalization(
    split: Split, canvas: tuple[int, int], fit: Fit
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the images, in [0, 1].

    Args:
        split: The training split; at most `MEASURED_IMAGES` of its files are read.
        canvas: `(H, W)` at which images are stored.
        fit: How images are brought to the canvas.
    """
    count = len(split)
    if _held_in_memory(split.images) is None:
        count = min(count, MEASURED_IMAGES)
    sample = torch.arange(count) * len(split) // count
    histogram = torch.zeros(split.images.channels, 256, dtype=torch.int64)
    for part in sample.split(500):
        pixels = read_stored(split.subset(part).images, Canvas(canvas, fit))  # (n, C, H, W)
        for counts, channel in zip(histogram, pixels.unbind(dim=1), strict=True):
            counts += torch.bincount(channel.flatten(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    shares = histogram / histogram.sum(dim=1, keepdim=True)  # (C, 256)
    mean = shares.double() @ levels
    variance = (shares.double() * (levels - mean[:, None]).square()).sum(dim=1)
    # images of one flat colour must not divide by zero
    return mean.tolist(), variance.sqrt().clamp_min(1 / 255).tolist()


def fits_in_memory(
    num_images: int, channels: int, canvas: tuple[int, int], device: torch.device
) -> bool:
    """Whether images can be held as one uint8 tensor on the device.

    Args:
        num_images: Number of images, N.
        channels: Number of channels, C.
        canvas: `(H, W)`.
        device: The device that would hold them.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = _free_memory()
    return num_images * channels * canvas[0] * canvas[1] <= MEMORY_SHARE * free


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return TF.resize(image, list(size), InterpolationMode.BICUBIC, antialias=True)


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
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if Path("/proc/meminfo").exists():
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    if CONTAINER_LIMIT.exists() and (limit := CONTAINER_LIMIT.read_text().strip()).isdigit():
        free = min(free, int(limit))
    return free
