"""Resizing by Pillow in two steps, rows first, as all of its versions before 13 do it at once.

Since then, Pillow resizes columns first where that is faster, and so clips other overshoots.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from vitrellis.data.augmentation.resampling import Interpolation


def by_pillow(
    image: Tensor, box: Sequence[int], size: tuple[int, int], kernel: Interpolation
) -> Tensor:
    """A part (top, left, height, width) of an image, uint8 `(C, H, W)`, at another size."""
    (top, left, height, width), (tall, wide) = box, size
    crop = TF.to_pil_image(image).crop((left, top, left + width, top + height))
    resampling = Image.Resampling[kernel.upper()]
    return TF.pil_to_tensor(
        crop.resize((wide, height), resampling).resize((wide, tall), resampling)
    )


def assert_alike(mine: Tensor, theirs: Tensor) -> None:
    """To a grey level; a number in 2,000 may be one more off, as the levels between both passes."""
    off = (mine.int() - theirs.int()).abs()
    assert off.max() <= 2
    assert (off > 1).sum() <= max(1, 5e-4 * off.numel())
    assert off.double().mean() <= 0.05
