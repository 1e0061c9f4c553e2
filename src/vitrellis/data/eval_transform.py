"""Evaluation: timm's own evaluation transform, which every door to a trained model goes through.

An image is resized, its middle is cut out, and it is normalised, in timm's terms
(`timm.data.transforms_factory.transforms_imagenet_eval`), so that the configuration that a run
exports describes what was measured. Pixels are Pillow's, bit by bit: single images are resized by
Pillow itself, and batches of small images, which are better enlarged on the device than stored
large, with Pillow's own integer weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.data.augmentation.resampling import Interpolation, cached_parts
from vitrellis.data.augmentation.transforms import Normalize
from vitrellis.data.canvas import Canvas
from vitrellis.data.pillow_resize import resize
from vitrellis.data.source import Images
from vitrellis.devices import has_float64

CropMode = Literal["squash", "center", "border"]
"""timm's names: the whole image, squashed; its middle; or the whole image within a border."""

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_WEIGHT_BITS = 22
"""Pillow's weights are multiples of 2^-22 (`PRECISION_BITS` in its `Resample.c`)."""
_LONG = 64
"""From this many times the area of the result on, only the middle of an image is resized."""


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resizes an image, and cuts out its middle, as timm does before it evaluates a model.

    Attributes:
        size: The size `(h, w)` of the result.
        interpolation: The kernel, antialiased.
        crop_pct: `size` as a share of the size that images are resized to: 0.875 for 224 of 256.
        crop_mode: "squash" resizes both sides; "center" the shorter side, and keeps the shape;
            "border" the longer side, and keeps the shape within a border.
        fill: The grey levels of a border, one for each channel.
    """

    size: tuple[int, int]
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    crop_mode: CropMode = "squash"
    fill: tuple[int, ...] = ()

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(C, H, W)` of any size to uint8 `(C, h, w)`, by Pillow."""
        (height, width), (tall, wide) = image.shape[-2:], self.resized(image.shape[-2:])
        top, left, bottom, right = self._window((tall, wide))
        box, size = None, (tall, wide)
        if tall * wide > _LONG * self.size[0] * self.size[1]:  # enlarged, it could take gigabytes
            across, down = width / wide, height / tall
            box = (left * across, top * down, right * across, bottom * down)
            size = (bottom - top, right - left)
        resized = torch.from_numpy(resize(image, size, self.interpolation, box))
        if box is None:
            resized = resized[:, top:bottom, left:right]
        return self._padded(resized[None])[0].contiguous()

    def batch(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to uint8 `(B, C, h, w)`, on their device, with the same pixels."""
        height, width = images.shape[-2:]
        if self.size == (height, width) == self.resized((height, width)):
            return images
        if not self.enlarges((height, width)):
            return torch.stack([self(image) for image in images.cpu()]).to(images.device)
        if not has_float64(images.device):
            return self.batch(images.cpu()).to(images.device)
        tall, wide = self.resized((height, width))
        top, left, bottom, right = self._window((tall, wide))
        rows = _weights(height, tall, (top, bottom), self.interpolation).to(images.device)
        columns = _weights(width, wide, (left, right), self.interpolation).to(images.device)
        channels = images.shape[1]
        out = images.new_empty(len(images), channels, bottom - top, right - left)
        numbers = 2 * channels * max(height, bottom - top) * max(width, right - left)
        for part in cached_parts(len(images), numbers, images.device):
            squeezed = _to_levels(images[part].double() @ columns.mT)  # (b, C, H, w)
            out[part] = _to_levels(rows @ squeezed).to(torch.uint8)
        return self._padded(out)

    def resized(self, own: Sequence[int]) -> tuple[int, int]:
        """The size `(H, W)` that images of the size `own` are resized to before the cut."""
        height, width = own
        goal = [math.floor(side / self.crop_pct) for side in self.size]
        if self.crop_mode == "squash":
            return goal[0], goal[1]
        if self.crop_mode == "center" and goal[0] == goal[1]:  # torchvision.transforms.Resize
            longer = int(goal[0] * max(own) / min(own))
            return (longer, goal[0]) if height > width else (goal[0], longer)
        ratios = height / goal[0], width / goal[1]  # timm's ResizeKeepRatio
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def enlarges(self, own: tuple[int, int]) -> bool:
        """Whether neither side of images of the size `own` shrinks.

        Then Pillow resizes rows before columns; otherwise it depends on its version.
        """
        return all(side <= new for side, new in zip(own, self.resized(own), strict=True))

    def _window(self, resized: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of the cut; a side that is too short is left whole."""
        (tall, wide), (height, width) = resized, self.size
        top = max(0, round((tall - height) / 2))
        left = max(0, round((wide - width) / 2))
        return top, left, min(tall, top + height), min(wide, left + width)

    def _padded(self, images: Tensor) -> Tensor:
        """`(B, C, h', w')` within the border, if it is smaller than the result."""
        down, across = self.size[0] - images.shape[-2], self.size[1] - images.shape[-1]
        if down == across == 0:
            return images
        borders = (across // 2, (across + 1) // 2, down // 2, (down + 1) // 2)
        planes = [
            F.pad(plane, borders, value=level)
            for plane, level in zip(images.unbind(dim=1), self.fill, strict=True)
        ]
        return torch.stack(planes, dim=1)


class EvalTransform:
    """Evaluation: images at the model's size, normalised.

    Args:
        size: `(h, w)` in pixels.
        mean: Mean per channel, of images in [0, 1].
        std: Standard deviation per channel.
        interpolation: The kernel for resizing.
        crop_pct: See `ResizeAndCrop`.
        crop_mode: See `ResizeAndCrop`.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: Interpolation = "bicubic",
        crop_pct: float = 1.0,
        crop_mode: CropMode = "squash",
    ) -> None:
        fill = tuple(round(255 * level) for level in mean)
        self.resize_and_crop = ResizeAndCrop(size, interpolation, crop_pct, crop_mode, fill)
        self.normalize = Normalize(mean, std)

    def __call__(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """uint8 `(B, C, H, W)`, or images `(C, H, W)` of any sizes, to float32 `(B, C, h, w)`."""
        if isinstance(images, Tensor):
            return self.normalize(self.resize_and_crop.batch(images))
        return self.normalize(torch.stack([self.resize_and_crop(image) for image in images]))

    def stored(self, images: Images) -> tuple[Canvas | ResizeAndCrop, Callable[[Tensor], Tensor]]:
        """How images are best stored, and what makes a model's input of a batch of them.

        They are stored as the model sees them; or, to save memory, as they are, if they all have
        the same size and are only enlarged.
        """
        own, (height, width) = images.size, self.resize_and_crop.size
        is_small = own is not None and own[0] * own[1] <= height * width
        if own is not None and is_small and self.resize_and_crop.enlarges(own):
            return Canvas(own), self
        return self.resize_and_crop, self.normalize


def _to_levels(sums: Tensor) -> Tensor:
    """Whole grey levels of sums of grey levels times integer weights, in place, as Pillow rounds.

    The sums are integers below 2^53, and so exact in whatever order they were added.
    """
    half = 1 << (_WEIGHT_BITS - 1)
    return sums.add_(half).div_(1 << _WEIGHT_BITS).floor_().clamp_(0, 255)


@lru_cache(maxsize=16)
def _weights(
    num_in: int, num_out: int, window: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """Pillow's weights of one side (`precompute_coeffs` and `normalize_coeffs_8bpc`).

    Args:
        num_in: Pixels of the side.
        num_out: Pixels of the resized side.
        window: The first of those to compute, and the first not to.
        interpolation: The kernel.

    Returns:
        `(window's length, num_in)` float64, whole numbers: weights times 2^22.
    """
    scale = num_in / num_out
    widened = max(scale, 1.0)
    support = _SUPPORT[interpolation] * widened
    weights = torch.zeros(window[1] - window[0], num_in, dtype=torch.float64)
    for row, pixel in zip(weights, range(*window), strict=True):
        centre = (pixel + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(num_in, int(centre + support + 0.5))
        kernel = [
            _kernel((place - centre + 0.5) * (1 / widened), interpolation)
            for place in range(first, last)
        ]
        total = sum(kernel)
        shares = [weight * (1 / total) * (1 << _WEIGHT_BITS) for weight in kernel]
        row[first:last] = torch.tensor(shares, dtype=torch.float64)
    return torch.where(weights < 0, weights - 0.5, weights + 0.5).trunc()


def _kernel(distance: float, interpolation: Interpolation) -> float:
    """Triangle, or Keys' cubic with a = -0.5, as Pillow computes them."""
    x = abs(distance)
    if interpolation == "bilinear":
        return max(0.0, 1 - x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0
