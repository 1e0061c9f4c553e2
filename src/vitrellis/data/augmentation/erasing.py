"""Erasing parts of images: random erasing and Cutout.

Papers: Random Erasing (Zhong et al., AAAI 2020, https://arxiv.org/abs/1708.04896), as timm's pixel
mode; Cutout (DeVries & Taylor, 2017, https://arxiv.org/abs/1708.04552), original code
github.com/uoguelph-mlrg/Cutout. Cutout's centres are uniform over the image, so that the square
is often cut off by the border, and zero is the mean, because images are normalised before.

How we differ: the noise of random erasing is not drawn but read from a table of normal numbers,
from a random place on; drawing it for every pixel would cost more than all other steps.
A Cutout square of odd side is as large as it says; the published code leaves a pixel off each side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitrellis.data.augmentation.crops import is_inside, random_boxes
from vitrellis.data.augmentation.resampling import cached_parts
from vitrellis.data.augmentation.steps import AugmentationKeys, NormalizedStep, Step, amount
from vitrellis.data.randomness import integers, uniform
from vitrellis.settings import Fraction, Index

AREA = (0.02, 1 / 3)
"""Smallest and largest share of the image that is erased."""
ASPECT = (0.3, 1 / 0.3)
"""Narrowest and widest rectangle, width over height."""
NUM_PLACES = 1 << 18
"""Number of places of the table at which noise can begin."""

LARGE_IMAGE = 1 << 16
"""Numbers of an image from which a CPU erases rectangles one by one."""


class ErasingKeys(AugmentationKeys):
    """The key of random erasing."""

    erasing: Fraction = 0.0
    """Probability that a rectangle is replaced by noise."""

    def step(self) -> Step | None:
        """Random erasing, if its probability is not 0."""
        return Erasing(self.erasing) if self.erasing > 0 else None

    def words(self) -> list[str]:
        """The probability."""
        return amount("erasing", self.erasing)


class CutoutKeys(AugmentationKeys):
    """The key of Cutout."""

    cutout: Index = 0
    """Side in pixels of a square that is replaced by the mean colour, 0 for none; its centre is
    anywhere, and the border cuts it off."""

    def step(self) -> Step | None:
        """Cutout, if the square has a side."""
        return Cutout(self.cutout) if self.cutout > 0 else None

    def words(self) -> list[str]:
        """The side."""
        return amount("Cutout", self.cutout)


class Erasing(NormalizedStep):
    """Replaces a rectangle of some images by normal noise.

    Args:
        probability: The probability that a part of an image is erased.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability
        self._table = torch.empty(0)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Erases in place, and returns the images.

        Args:
            images: `(B, C, H, W)` float32, normalised.
            keys: `(B,)` of the samples, on the CPU.
        """
        height, width = images.shape[-2:]
        device, numbers = images.device, images.shape[1:].numel()
        boxes = random_boxes(
            keys, (height, width), AREA, ASPECT, largest=(height - 1, width - 1), stream="erase-box"
        )
        is_erased = boxes.fits & (uniform(keys, "erase", 1).squeeze(1) < self.probability)
        rows = is_erased.nonzero().squeeze(1)
        starts = integers(keys[rows], "erase-noise", 1, below=NUM_PLACES).squeeze(1)
        noise = self._noise(numbers, device)
        sides = boxes.sides[rows]
        if device.type == "cpu" and numbers >= LARGE_IMAGE:
            each = zip(rows.tolist(), starts.tolist(), sides.tolist(), strict=True)
            for row, start, (top, left, tall, wide) in each:
                box = (slice(None), slice(top, top + tall), slice(left, left + wide))
                images[row][box] = noise[start].view(images.shape[1:])[box]
            return images
        rows, starts, sides = rows.to(device), starts.to(device), sides.to(device)
        for part in cached_parts(len(rows), numbers, device):
            pixels = images.index_select(0, rows[part])
            patches = noise.index_select(0, starts[part]).view_as(pixels)
            erased = torch.where(is_inside(sides[part], (height, width)), patches, pixels)
            images.index_copy_(0, rows[part], erased)
        return images

    def _noise(self, numbers: int, device: torch.device) -> Tensor:
        """`(NUM_PLACES, numbers)` overlapping views of the table."""
        if len(self._table) != NUM_PLACES + numbers or self._table.device != device:
            generator = torch.Generator().manual_seed(0)
            self._table = torch.randn(NUM_PLACES + numbers, generator=generator).to(device)
        return self._table.as_strided((NUM_PLACES, numbers), (1, 1))


class Cutout(NormalizedStep):
    """Puts zeros in a square of each image.

    Args:
        side: The side of the square, in pixels.
    """

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Cuts in place, and returns the images.

        Args:
            images: `(B, C, H, W)` float32, normalised.
            keys: `(B,)` of the samples, on the CPU.
        """
        height, width = images.shape[-2:]
        below = torch.tensor([[height, width]]).expand(len(keys), 2)
        corners = integers(keys, "cutout", 2, below=below) - self.side // 2
        squares = torch.cat([corners, torch.full_like(corners, self.side)], dim=1)
        return images.masked_fill_(is_inside(squares.to(images.device), (height, width)), 0)
