"""Random crops and flips: their keys, their boxes, and their step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from vitrellis.data.augmentation.resampling import Interpolation, crop_resize, padded_crop
from vitrellis.data.augmentation.steps import amount
from vitrellis.data.canvas import Fit
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


RatioOf = Literal["pixels", "image"]
"""What an aspect is the ratio of: sides in pixels, or shares of the sides of the image."""


class CropKeys(Section):
    """The keys of crops and flips."""

    crop: Literal["resized", "padded", "none"] = "resized"
    """A random part resized, the image moved within a black border, or the whole image."""
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    """Smallest and largest share of the area that a resized crop shows."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect of a resized crop, width over height."""
    ratio_of: Literal["pixels", "fit"] = "pixels"
    """What `ratio` is the ratio of: sides in `pixels`, as in torchvision and timm; or, with `fit`,
    shares of the image's sides if `input.fit` squashes images, so that training squashes things as
    evaluation does, and otherwise pixels."""
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
        fit: How whole images of another shape are made to fit.
    """

    def __init__(self, keys: CropKeys, size: tuple[int, int], fit: Fit = "squash") -> None:
        self.size = size
        self.fit = fit
        self.crop = keys.crop
        self.scale = keys.scale
        self.ratio = keys.ratio
        is_squashed = keys.ratio_of == "fit" and fit == "squash"
        self.ratio_of: RatioOf = "image" if is_squashed else "pixels"
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
        flip_x, flip_y = self.flips(keys).to(device).unbind(dim=1)
        if self.crop == "resized":
            boxes = self.boxes(keys, torch.tensor([[height, width]])).to(device)
            settings = (boxes, self.size, self.interpolation, flip_x, flip_y)
            if finish is not None:
                return crop_resize(images, *settings, finish=finish)
            return crop_resize(images, *settings, dtype=torch.uint8)
        if (height, width) != self.size:
            boxes = self.boxes(keys, torch.tensor([[height, width]])).to(device)
            images = crop_resize(images, boxes, self.size, self.interpolation, dtype=torch.uint8)
        offsets = integers(keys, "padded-crop", 2, below=2 * self.padding + 1).to(device)
        return padded_crop(images, offsets, self.padding, self.size, flip_x, flip_y)

    def flips(self, keys: Tensor) -> Tensor:
        """`(B, 2)` bool: whether left and right, and whether up and down, are exchanged."""
        return uniform(keys, "flip", 2) < self._chances

    def boxes(self, keys: Tensor, sizes: Tensor) -> Tensor:
        """The part of each image that is resized; flips, and a border's offsets, come after.

        Args:
            keys: `(B,)` of the samples, on the CPU.
            sizes: `(B, 2)` int64 heights and widths of the images, or `(1, 2)` if all are alike.

        Returns:
            `(B, 4)` int64: top, left, height, width in pixels.
        """
        if self.crop == "resized":
            return crop_boxes(keys, sizes, self.scale, self.ratio, self.ratio_of)
        aspect = self.size[1] / self.size[0]
        whole = F.pad(sizes, (2, 0))
        boxes = whole if self.fit == "squash" else centred_boxes(sizes, (aspect, aspect))
        return boxes.expand(len(keys), 4)

    def matrices(self, keys: Tensor, sizes: Tensor) -> Tensor:
        """The origin of each pixel of the result in the stored image.

        Args:
            keys: `(B,)` of the samples, on the CPU.
            sizes: `(B, 2)` int64 heights and widths of the stored images, or `(1, 2)`.

        Returns:
            `(B, 2, 3)` float64 on the CPU, as of `TrainTransform.origins`.
        """
        tall, wide = self.size
        flips = self.flips(keys)
        boxes = self.boxes(keys, sizes).double()
        corner, sides = boxes[:, [1, 0]], boxes[:, [3, 2]]  # x before y, (B, 2)
        step = sides / torch.tensor([wide, tall])
        if self.crop != "resized":
            offsets = integers(keys, "padded-crop", 2, below=2 * self.padding + 1)[:, [1, 0]]
            corner = corner + (offsets.double() - self.padding) * step
        ends = corner + step * torch.tensor([wide, tall])
        step, corner = torch.where(flips, -step, step), torch.where(flips, ends, corner)
        matrices = torch.zeros(len(keys), 2, 3, dtype=torch.float64)
        matrices[:, 0, 0], matrices[:, 1, 1] = step.unbind(dim=1)
        matrices[:, :, 2] = corner
        return matrices


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
    keys: Tensor,
    size: tuple[int, int] | Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    ratio_of: RatioOf = "pixels",
) -> Tensor:
    """Boxes of random area, aspect and place; the largest centred one where none fits.

    Args:
        keys: `(B,)` int64 keys of the samples.
        size: `(H, W)` of the images, or `(B, 2)` int64, one for each.
        scale: Smallest and largest share of the area.
        ratio: Narrowest and widest aspect, width over height.
        ratio_of: What the aspect is the ratio of.

    Returns:
        `(B, 4)` int64: top, left, height, width.
    """
    sizes = torch.as_tensor(size, device=keys.device).view(-1, 2)
    boxes = random_boxes(keys, sizes, scale, ratio, largest=sizes, stream="crop", ratio_of=ratio_of)
    centred = centred_boxes(sizes, ratio, ratio_of)
    return torch.where(boxes.fits[:, None], boxes.sides, centred)


def random_boxes(
    keys: Tensor,
    size: tuple[int, int] | Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    largest: tuple[int, int] | Tensor,
    stream: str,
    ratio_of: RatioOf = "pixels",
) -> Boxes:
    """The first of ten boxes of uniform area and log-uniform aspect that fits.

    Args:
        keys: `(B,)` int64 keys of the samples.
        size: `(H, W)` of the images, or `(B, 2)` int64, one for each.
        scale: Smallest and largest share of the area.
        ratio: Narrowest and widest aspect, width over height.
        largest: Greatest height and width that fit, as `size`.
        stream: The name of the boxes' random numbers.
        ratio_of: What the aspect is the ratio of.
    """
    sizes = torch.as_tensor(size, device=keys.device).view(-1, 2)  # (B or 1, 2)
    tallest, widest = torch.as_tensor(largest, device=keys.device).view(-1, 2, 1).unbind(dim=1)
    draws = uniform(keys, stream, 2 * ATTEMPTS + 2).double()
    areas, aspects, places = draws.split((ATTEMPTS, ATTEMPTS, 2), dim=1)
    pixels = (areas * (scale[1] - scale[0]) + scale[0]) * sizes.prod(dim=1, keepdim=True)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspects = torch.exp(aspects * (high - low) + low) * _unit_aspects(sizes, ratio_of)
    heights = torch.sqrt(pixels / aspects).round().long()  # (B, ATTEMPTS)
    widths = torch.sqrt(pixels * aspects).round().long()
    fits = (heights > 0) & (heights <= tallest) & (widths > 0) & (widths <= widest)
    first = fits.int().argmax(dim=1, keepdim=True)
    sides = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)  # (B, 2)
    corners = (places * (sizes - sides + 1)).long()  # (B, 2)
    return Boxes(torch.cat([corners, sides], dim=1), fits.any(dim=1))


def centred_boxes(
    sizes: Tensor, ratio: tuple[float, float], ratio_of: RatioOf = "pixels"
) -> Tensor:
    """The largest centred boxes whose aspect is within bounds.

    Args:
        sizes: `(B, 2)` int64 heights and widths of the images.
        ratio: Narrowest and widest aspect, width over height.
        ratio_of: What the aspect is the ratio of.

    Returns:
        `(B, 4)` int64: top, left, height, width.
    """
    exact = sizes.double()
    height, width = exact[:, :1], exact[:, 1:]  # (B, 1)
    unit = _unit_aspects(sizes, ratio_of)
    aspects = (width / height).maximum(ratio[0] * unit).minimum(ratio[1] * unit)
    sides = torch.cat([width / aspects, height * aspects], dim=1).round().clamp_min(1)
    sides = sides.minimum(exact).long()
    return torch.cat([(sizes - sides) // 2, sides], dim=1)


def _unit_aspects(sizes: Tensor, ratio_of: RatioOf) -> Tensor:
    """`(B, 1)` float64, width over height in pixels of boxes whose ratio is 1."""
    exact = sizes.double()
    return exact[:, 1:] / exact[:, :1] if ratio_of == "image" else torch.ones_like(exact[:, :1])


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
