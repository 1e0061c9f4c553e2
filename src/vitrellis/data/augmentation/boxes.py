"""Random boxes: what a resized crop shows, and what random erasing hides."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vitrellis.data.randomness import uniform

ATTEMPTS = 10
"""Boxes that are drawn for a sample before it is given up, as in torchvision and timm."""


class Boxes(NamedTuple):
    """One box for each sample.

    Attributes:
        sides: `(B, 4)` int64: top, left, height, width in pixels.
        found: `(B,)` bool; where no box did fit, `sides` means nothing.
    """

    sides: Tensor
    found: Tensor


def crop_boxes(
    keys: Tensor, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes of random area, aspect and place; the largest centred one where none fits.

    Args:
        keys: `(B,)` of the samples.
        size: `(H, W)` of the images.
        scale: Smallest and largest share of the area.
        ratio: Narrowest and widest aspect, width over height.

    Returns:
        `(B, 4)` int64: top, left, height, width.
    """
    boxes = random_boxes(keys, size, scale, ratio, largest=size, stream="crop")
    centred = torch.tensor(_centred_box(size, ratio), device=keys.device)
    return torch.where(boxes.found[:, None], boxes.sides, centred)


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
        keys: `(B,)` of the samples.
        size: `(H, W)` of the images.
        scale: Smallest and largest share of the area.
        ratio: Narrowest and widest aspect, width over height.
        largest: Greatest height and width that fit.
        stream: What the randomness is for.
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
    """Where boxes are.

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
