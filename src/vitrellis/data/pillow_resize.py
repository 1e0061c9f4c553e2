"""Resizing by Pillow itself: the pixels that torchvision and timm get from an image file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from vitrellis.data.augmentation.resampling import Interpolation

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Pillow's names of the kernels."""


def resize(
    image: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation,
    box: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Resizes every channel, antialiased. Pillow lets other threads run meanwhile.

    Args:
        image: uint8 `(C, H, W)` on the CPU. Pixel by pixel in memory, as `interleaved` puts it,
            colours take two thirds of the time.
        size: `(h, w)` of the result.
        interpolation: The kernel.
        box: Left, top, right and bottom of the part that is resized; the whole image if None.

    Returns:
        uint8 `(C, h, w)`.
    """
    across_first, kernel = (size[1], size[0]), RESAMPLING[interpolation]
    if len(image) == 3 and image.stride(0) == 1:
        colours = Image.fromarray(image.permute(1, 2, 0).numpy())
        return np.array(colours.resize(across_first, kernel, box)).transpose(2, 0, 1)
    planes = [
        np.asarray(Image.fromarray(plane).resize(across_first, kernel, box))
        for plane in image.numpy()
    ]
    return np.stack(planes)


def interleaved(image: Tensor) -> Tensor:
    """The same `(C, H, W)` with the channels of each pixel side by side in memory."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
