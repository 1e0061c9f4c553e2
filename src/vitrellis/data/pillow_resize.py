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


def resize_planes(
    image: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation,
    box: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Resizes every channel, antialiased. Pillow lets other threads run meanwhile.

    Args:
        image: uint8 `(C, H, W)` on the CPU.
        size: `(h, w)` of the result.
        interpolation: The kernel.
        box: Left, top, right and bottom of the part that is resized; the whole image if None.

    Returns:
        uint8 `(C, h, w)`.
    """
    across_first = (size[1], size[0])
    kernel = RESAMPLING[interpolation]
    planes = [
        np.asarray(Image.fromarray(plane).resize(across_first, kernel, box))
        for plane in image.numpy()
    ]
    return np.stack(planes)
