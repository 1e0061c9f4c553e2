"""The canvas: the one size at which all images of a run are stored before they are augmented.

Training, evaluation and prediction bring images to it in the same way.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vitrellis.data.sources.base import Images, Split, TensorImages

Fit = Literal["squash", "crop"]

MARGIN = 1.15
"""A stored image has at most so many times the model's pixels on a side: room for crops."""
MEASURED_IMAGES = 10_000
"""Most images that a normalisation is measured on, evenly spread."""
MEMORY_SHARE = 0.3
"""Share of the free memory that images may take."""


def canvas_for(images: Images, img_size: tuple[int, int]) -> tuple[int, int]:
    """The size at which images are stored: their own, if they all have it and it is not too large.

    Args:
        images: Of the training split.
        img_size: `(H, W)` that the model sees.
    """
    limit = (round(MARGIN * img_size[0]), round(MARGIN * img_size[1]))
    own = images.size
    if own is not None and own[0] <= limit[0] and own[1] <= limit[1]:
        return own
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
    size = canvas
    if fit == "crop":
        factor = max(canvas[0] / height, canvas[1] / width)
        size = (max(canvas[0], round(height * factor)), max(canvas[1], round(width * factor)))
    resized = TF.resize(image, list(size), InterpolationMode.BICUBIC, antialias=True)
    return TF.center_crop(resized, list(canvas))


def read_canvases(images: Images, canvas: tuple[int, int], fit: Fit) -> Tensor:
    """All images, decoded by threads.

    Returns:
        uint8 `(N, C, *canvas)` on the CPU.

    Raises:
        VitrellisError: Naming an image that cannot be read.
    """
    if isinstance(images, TensorImages) and images.size == canvas:
        return images.tensor
    out = torch.empty(len(images), images.channels, *canvas, dtype=torch.uint8)

    def read(index: int) -> None:
        out[index] = to_canvas(images[index], canvas, fit)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(read, range(len(images))):
            pass
    return out


def measure_normalization(
    split: Split, canvas: tuple[int, int], fit: Fit
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the images, in [0, 1].

    Args:
        split: The training split. At most `MEASURED_IMAGES` are looked at.
        canvas: `(H, W)` at which images are stored.
        fit: How they are brought to it.
    """
    every = max(1, -(-len(split) // MEASURED_IMAGES))
    some = split.subset(torch.arange(0, len(split), every))
    total = torch.zeros(split.images.channels, dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(some), 500):
        part = some.subset(torch.arange(start, min(start + 500, len(some))))
        pixels = read_canvases(part.images, canvas, fit).double() / 255  # (n, C, H, W)
        total += pixels.sum(dim=(0, 2, 3))
        squares += pixels.square().sum(dim=(0, 2, 3))
    count = len(some) * canvas[0] * canvas[1]
    mean = total / count
    variance = squares / count - mean.square()
    # images of one flat colour must not divide by zero
    std = variance.clamp_min(0).sqrt().clamp_min(1 / 255)
    return mean.tolist(), std.tolist()


def fits_in_memory(
    num_images: int, channels: int, canvas: tuple[int, int], device: torch.device
) -> bool:
    """Whether images can be held as one uint8 tensor on the device.

    Args:
        num_images: N.
        channels: C.
        canvas: `(H, W)`.
        device: Where they would be held.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return num_images * channels * canvas[0] * canvas[1] <= MEMORY_SHARE * free
