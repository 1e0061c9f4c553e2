"""Random crops and flips: their keys, their boxes, and their step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor

from vitrellis.data.augmentation.resampling import Interpolation, crop_resize, padded_crop
from vitrellis.data.augmentation.steps import amount
from vitrellis.data.randomness import integers, uniform
from vitrellis.settings import Fraction, Index, Positive, Section


def in_order(name: str, pair: tuple[float, float]) -> None:
    """Refuses a pair of keys whose smaller number does not come first.

    Raises:
        ValueError: Naming the key.
    """
    low, high = pair
    if low > high:
        raise ValueError(f"{name} is [{low}, {high}]; the smaller number goes first")


class CropKeys(Section):
    """The keys of crops and flips."""

    crop: Literal["resized", "padded", "none"] = "resized"
    """A random part resized, the image moved within a black border, or the whole image."""
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    """Smallest and largest share of the area that a resized crop shows."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect of a resized crop, width over height."""
    padding: Index = 4
    """Width of the border for a padded crop, in pixels."""
    interpolation: Interpolation = "bicubic"
    """The kernel for resizing, in evaluation too if `input.interpolation` does not say."""
    flip: Fraction = 0.5
    """Probability that left and right are exchanged."""
    vertical_flip: Fraction = 0.0
    """Probability that up and down are exchanged."""

    @model_validator(mode="after")
    def _crops_are_possible(self) -> Self:
        in_order("scale", self.scale)
        in_order("ratio", self.ratio)
        if self.scale[1] > 1:
            raise ValueError(f"scale is {list(self.scale)}; no part is larger than the whole, 1")
        return self

    def crop_words(self) -> list[str]:
        """Crops and flips in a few words, for the summary of a run."""
        crops = {
            "resized": f"crops of {self.scale[0]:.2g} to {self.scale[1]:.2g} of the area",
            "padded": f"crops padded by {self.padding}",
            "none": "whole images",
        }
        flips = amount("flip", self.flip) + amount("vertical flip", self.vertical_flip)
        return [crops[self.crop], *flips]


class CropAndFlip:
    """The first step of every view: each image its own crop and flip, at the model's size.

    Args:
        keys: The settings.
        size: `(h, w)` of the result in pixels.
    """

    def __init__(self, keys: CropKeys, size: tuple[int, int]) -> None:
        self.size = size
        self.crop = keys.crop
        self.scale = keys.scale
        self.ratio = keys.ratio
        self.padding = keys.padding if keys.crop == "padded" else 0
        self.interpolation: Interpolation = keys.interpolation
        self._chances = torch.tensor([keys.flip, keys.vertical_flip])

    def __call__(
        self,
        images: Tensor,
        keys: Tensor,
        finish: Callable[[Tensor, Tensor], object] | None,
    ) -> Tensor:
        """Crops and flips a batch.

        Args:
            images: uint8 `(B, C, H, W)`.
            keys: `(B,)` of the samples, on the CPU.
            finish: Makes the result from grey levels, see `crop_resize`; None if other steps follow
                on grey levels. Padded crops do not use it.

        Returns:
            `(B, C, h, w)`, uint8 or finished; never the caller's memory.
        """
        height, width = images.shape[-2:]
        device = images.device
        flip_x, flip_y = (uniform(keys, "flip", 2) < self._chances).to(device).unbind(dim=1)
        if self.crop == "resized":
            boxes = crop_boxes(keys, (height, width), self.scale, self.ratio).to(device)
            settings = (boxes, self.size, self.interpolation, flip_x, flip_y)
            if finish is not None:
                return crop_resize(images, *settings, finish=finish)
            return crop_resize(images, *settings, dtype=torch.uint8)
        if (height, width) != self.size:
            boxes = whole_boxes(images)
            images = crop_resize(images, boxes, self.size, self.interpolation, dtype=torch.uint8)
        offsets = integers(keys, "padded-crop", 2, below=2 * self.padding + 1).to(device)
        return padded_crop(images, offsets, self.padding, self.size, flip_x, flip_y)

    def matrices(self, keys: Tensor, stored: tuple[int, int]) -> Tensor:
        """The origin of each pixel of the result in the stored image.

        Args:
            keys: `(B,)` of the samples, on the CPU.
            stored: `(H, W)` of the stored images.

        Returns:
            `(B, 2, 3)` float64 on the CPU, as of `TrainTransform.origins`.
        """
        (height, width), (tall, wide) = stored, self.size
        flips = uniform(keys, "flip", 2) < self._chances
        if self.crop == "resized":
            boxes = crop_boxes(keys, stored, self.scale, self.ratio).double()
            corner, sides = boxes[:, [1, 0]], boxes[:, [3, 2]]  # x before y, (B, 2)
            step = sides / torch.tensor([wide, tall])
        else:
            step = torch.tensor([[width / wide, height / tall]]).double().repeat(len(keys), 1)
            offsets = integers(keys, "padded-crop", 2, below=2 * self.padding + 1)[:, [1, 0]]
            corner = (offsets.double() - self.padding) * step
        ends = corner + step * torch.tensor([wide, tall])
        step, corner = torch.where(flips, -step, step), torch.where(flips, ends, corner)
        matrices = torch.zeros(len(keys), 2, 3, dtype=torch.float64)
        matrices[:, 0, 0], matrices[:, 1, 1] = step.unbind(dim=1)
        matrices[:, :, 2] = corner
        return matrices


def whole_boxes(images: Tensor) -> Tensor:
    """Boxes around whole images, `(B, 4)`."""
    box = torch.tensor([0, 0, *images.shape[-2:]], device=images.device)
    return box.expand(len(images), 4)


ATTEMPTS = 10
"""Number of boxes that are drawn for a sample, as in torchvision and timm."""


class Boxes(NamedTuple):
    """One box for each sample.

    Attributes:
        sides: `(B, 4)` int64: top, left, height, width in pixels.
        fits: `(B,)` bool; `sides` is undefined where no box fits.
    """

    sides: Tensor
    fits: Tensor


def crop_boxes(
    keys: Tensor, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes of random area, aspect and place; the largest centred one where none fits.

    Args:
        keys: `(B,)` int64 keys of the samples.
        size: `(H, W)` of the images.
        scale: Smallest and largest share of the area.
        ratio: Narrowest and widest aspect, width over height.

    Returns:
        `(B, 4)` int64: top, left, height, width.
    """
    boxes = random_boxes(keys, size, scale, ratio, largest=size, stream="crop")
    centred = torch.tensor(_centred_box(size, ratio), device=keys.device)
    return torch.where(boxes.fits[:, None], boxes.sides, centred)


def random_boxes(
    keys: Tensor,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    largest: tuple[int, int],
    stream: str,
) -> Boxes:
    """The first of ten boxes of uniform area and log-uniform aspect that fits.

    Args:
        keys: `(B,)` int64 keys of the samples.
        size: `(H, W)` of the images.
        scale: Smallest and largest share of the area.
        ratio: Narrowest and widest aspect, width over height.
        largest: Greatest height and width that fit.
        stream: The name of the boxes' random numbers.
    """
    draws = uniform(keys, stream, 2 * ATTEMPTS + 2).double()
    areas, aspects, places = draws.split((ATTEMPTS, ATTEMPTS, 2), dim=1)
    pixels = (areas * (scale[1] - scale[0]) + scale[0]) * (size[0] * size[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspects = torch.exp(aspects * (high - low) + low)
    heights = torch.sqrt(pixels / aspects).round().long()  # (B, ATTEMPTS)
    widths = torch.sqrt(pixels * aspects).round().long()
    fits = (heights > 0) & (heights <= largest[0]) & (widths > 0) & (widths <= largest[1])
    first = fits.int().argmax(dim=1, keepdim=True)
    sides = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)  # (B, 2)
    room = torch.tensor(size, device=keys.device) - sides + 1
    corners = (places * room).long()  # (B, 2)
    return Boxes(torch.cat([corners, sides], dim=1), fits.any(dim=1))


def _centred_box(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    height, width = size
    aspect = min(max(width / height, ratio[0]), ratio[1])
    tall, wide = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def is_inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of boxes.

    Args:
        boxes: `(B, 4)` top, left, height and width in pixels; they may reach beyond the image.
        size: `(H, W)` of the image.

    Returns:
        `(B, 1, H, W)` bool.
    """
    top, left, height, width = boxes[:, :, None].unbind(dim=1)  # (B, 1)
    row = torch.arange(size[0], device=boxes.device)
    column = torch.arange(size[1], device=boxes.device)
    in_rows = (row >= top) & (row < top + height)  # (B, H)
    in_columns = (column >= left) & (column < left + width)  # (B, W)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]
