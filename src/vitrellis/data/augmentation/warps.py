"""Rotation, shear and translation for whole batches, each image by its own strength."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vitrellis.data.augmentation.resampling import Interpolation, cached_parts

_ROUNDING_SLACK = 2.0**-9
"""Added before truncation, in grey levels; larger than the error of float32 where rows slide, and
for each 32 pixels of a side where positions are computed in float32."""


def warp(
    images: Tensor, matrices: Tensor, fill: Tensor, interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Affine warps as Pillow's `Image.transform`.

    Args:
        images: `(B, C, H, W)` uint8.
        matrices: `(B, 2, 3)` float64: the origin of each output pixel `(x, y, 1)`, in pixels, with
            centres at halves.
        fill: `(C,)` float32, the grey levels outside of the image.
        interpolation: The kernel, of the nearest 2 x 2 or 4 x 4 pixels.

    Returns:
        `(B, C, H, W)` uint8.
    """
    channels, height, width = images.shape[1:]
    extent = torch.tensor([float(width), float(height)], device=images.device).view(2, 1, 1)
    slack = _ROUNDING_SLACK * max(1.0, max(height, width) / 32)
    last = torch.nextafter(extent, torch.zeros_like(extent))
    out, fill = torch.empty_like(images), fill.float().view(1, -1, 1, 1)
    for part in cached_parts(len(images), channels * height * width, images.device):
        origins = _origins(matrices[part].float(), (height, width))
        nearest = torch.minimum(origins.clamp_min(0), last)  # (b, 2, H, W)
        # ones and zeros: with booleans, torch's CPU kernels are many times as slow
        inside = torch.eq(nearest, origins, out=nearest).prod(dim=1, keepdim=True)  # (b, 1, H, W)
        if interpolation == "bicubic":
            warped = _bicubic(images[part].float(), origins)
        else:
            grid = origins.mul_(2 / extent).sub_(1).movedim(1, -1)  # (b, H, W, 2)
            warped = F.grid_sample(
                images[part].float(), grid, padding_mode="border", align_corners=False
            )
        # Pillow truncates, in double precision: whole levels must not end up just below themselves
        warped.add_(slack)
        out[part] = torch.lerp(fill, warped, inside, out=warped).short()
    return out


def _origins(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """`(b, 2, H, W)` x and y of the origin of each pixel of an `(H, W)` result."""
    column = torch.arange(size[1], device=matrices.device) + 0.5
    row = torch.arange(size[0], device=matrices.device)[:, None] + 0.5
    from_x, from_y, from_1 = matrices[:, :, :, None, None].unbind(dim=2)
    return from_x * column + (from_y * row + from_1)


def warp_by_pillow(
    image: Tensor, matrix: Tensor, fill: Tensor, interpolation: Interpolation
) -> Tensor:
    """`warp` of one image on a CPU, by Pillow, which is faster than torch if it is bicubic.

    Args:
        image: `(C, H, W)` uint8, of one channel or three.
        matrix: `(2, 3)` float64, as `warp` takes it.
        fill: `(C,)` float32, the grey levels outside of the image, whole.
        interpolation: The kernel.

    Returns:
        `(C, H, W)` uint8.
    """
    pixels = image[0] if len(image) == 1 else image.movedim(0, -1)  # (H, W) or (H, W, 3)
    picture = Image.fromarray(np.ascontiguousarray(pixels.numpy()))
    levels = tuple(int(level) for level in fill)
    warped = picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix.flatten().tolist(),
        resample=getattr(Image.Resampling, interpolation.upper()),
        fillcolor=levels[0] if len(image) == 1 else levels,
    )
    found = torch.from_numpy(np.array(warped))
    return found[None] if len(image) == 1 else found.movedim(-1, 0)


def slide(
    images: Tensor,
    matrices: Tensor,
    fill: Tensor,
    axis: Literal["x", "y"],
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """`warp` of matrices that move pixels along one axis only.

    It is faster on a CPU, because each row moves as a whole, with the same weights throughout.

    Args:
        images: `(B, C, H, W)` uint8.
        matrices: `(B, 2, 3)` float64, as `warp` takes them: for x those of `shear_x` and
            `translation_x`, for y those of `shear_y` and `translation_y`.
        fill: `(C,)` float32, the grey levels outside of the image.
        axis: The axis along which pixels move.
        interpolation: The kernel.

    Returns:
        `(B, C, H, W)` uint8.
    """
    rows = images if axis == "x" else images.mT.contiguous()
    line = torch.arange(rows.shape[2], dtype=torch.float64, device=images.device) + 0.5
    own, other = (0, 1) if axis == "x" else (1, 0)
    shifts = matrices[:, own, other, None] * line + matrices[:, own, 2:]  # (B, H or W)
    moved = _slide_rows(rows, shifts, fill, interpolation)
    return moved if axis == "x" else moved.mT


def _slide_rows(
    images: Tensor, shifts: Tensor, fill: Tensor, interpolation: Interpolation
) -> Tensor:
    """Moves rows: the origin of column x is `x` plus the row's shift, `(B, H)` float64."""
    batch, channels, height, width = images.shape
    taps, before = (2, 0) if interpolation == "bilinear" else (4, 1)
    whole = shifts.floor()
    share = (shifts - whole).float()[:, None, :, None]  # (B, 1, H, 1)
    origins = torch.arange(width, device=images.device) + (shifts.float() + 0.5)[:, None, :, None]
    nearest = origins.clamp(0, math.nextafter(width, 0))
    inside = torch.eq(nearest, origins, out=nearest)  # (B, 1, H, W)

    # Edges are repeated as far as a kernel reaches from inside. What is read beyond, in the next
    # rows or in the room before the first and behind the last, is replaced by `fill`.
    room, wide = width + taps, width + 2 * taps
    flat = images.new_empty(batch * channels * height * wide + 2 * room)
    padded = flat[room:-room].view(batch, channels, height, wide)
    padded[..., taps:-taps] = images
    padded[..., :taps] = images[..., :1]
    padded[..., -taps:] = images[..., -1:]
    first = room + taps - before + whole.long().clamp(-width, width)  # (B, H)
    starts = torch.arange(0, batch * channels * height * wide, wide, device=images.device)
    starts = starts.view(batch, channels, height) + first[:, None]
    length = width + taps - 1
    windows = flat.as_strided((len(flat) - length + 1, length), (1, 1))
    levels = windows.index_select(0, starts.flatten()).view(batch, channels, height, -1).float()

    if interpolation == "bilinear":
        moved = torch.lerp(levels[..., :-1], levels[..., 1:], share)  # (B, C, H, W)
    else:
        moved = torch.zeros(images.shape, device=images.device)
        for tap, weight in enumerate(_cubic(share)):
            moved.addcmul_(levels[..., tap : tap + width], weight)
        moved.clamp_(0, 255)
    moved.add_(_ROUNDING_SLACK)
    moved = torch.lerp(fill.float().view(1, -1, 1, 1), moved, inside, out=moved)
    return moved.short().to(torch.uint8)


def _bicubic(images: Tensor, origins: Tensor) -> Tensor:
    """Samples with Pillow's cubic, that of Keys with a = -1; edges are repeated.

    Not torch's `grid_sample`, whose cubic has a = -0.75, and is less sharp.

    Args:
        images: `(b, C, H, W)` float32.
        origins: `(b, 2, H, W)` x and y in pixels, with centres at halves.

    Returns:
        `(b, C, H, W)` float32 in [0, 255].
    """
    height, width = images.shape[-2:]
    corner = (origins - 0.5).floor()
    weights = _cubic(origins - 0.5 - corner)  # four of (b, 2, H, W)
    x, y = corner.long().unbind(dim=1)  # (b, H, W)
    columns = [(x + step).clamp(0, width - 1) for step in range(-1, 3)]
    rows = [(y + step).clamp(0, height - 1) * width for step in range(-1, 3)]
    flat = images.flatten(2)  # (b, C, H * W)
    out = torch.zeros_like(images)
    for row, down in zip(rows, weights, strict=True):
        line = torch.zeros_like(images)
        for column, across in zip(columns, weights, strict=True):
            place = (row + column).flatten(1)[:, None].expand(-1, images.shape[1], -1)
            line.add_(flat.gather(2, place).view_as(images).mul_(across[:, None, 0]))
        out.add_(line.mul_(down[:, None, 1]))
    return out.clamp_(0, 255)


def _cubic(shift: Tensor) -> list[Tensor]:
    """The weights of four pixels in a row, of which the second is `shift` in [0, 1) back."""
    square = shift * shift
    cube = square * shift
    return [
        2 * square - shift - cube,
        1 - 2 * square + cube,
        shift + square - cube,
        cube - square,
    ]


def combined(first: Tensor, second: Tensor) -> Tensor:
    """The matrices of two warps, one after the other.

    Args:
        first: `(B, 2, 3)`, the matrices of the warp that is applied first.
        second: `(B, 2, 3)`, those of the warp that is applied to its result.

    Returns:
        `(B, 2, 3)`.
    """
    last_row = second.new_tensor([0.0, 0.0, 1.0]).expand(len(second), 1, 3)
    return first @ torch.cat([second, last_row], dim=1)


def sample_maps(maps: Tensor, matrices: Tensor, size: tuple[int, int], stored: Tensor) -> Tensor:
    """Feature maps of images, as if the images had been warped: bilinear, edges are repeated.

    Args:
        maps: `(B, C, h, w)` of the stored images.
        matrices: `(B, 2, 3)`, the origins of the warped images' pixels, see `warp`.
        size: `(H', W')` of the warped images in pixels.
        stored: `(2,)` width and height of the stored images in pixels.

    Returns:
        `(B, C, h, w)`.
    """
    height, width = maps.shape[-2:]
    column = (torch.arange(width, device=maps.device) + 0.5) * (size[1] / width)
    row = (torch.arange(height, device=maps.device)[:, None] + 0.5) * (size[0] / height)
    from_x, from_y, from_1 = matrices.to(maps)[:, :, :, None, None].unbind(dim=2)
    origins = from_x * column + (from_y * row + from_1)  # (B, 2, h, w)
    grid = (origins * (2 / stored.to(maps).view(2, 1, 1)) - 1).movedim(1, -1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def rotation(degrees: Tensor, size: tuple[int, int]) -> Tensor:
    """Matrices for `warp` that turn images counter-clockwise around their centre.

    Args:
        degrees: `(B,)`.
        size: `(H, W)` of the images.

    Returns:
        `(B, 2, 3)` float64.
    """
    angles = -torch.deg2rad(degrees.double())
    cos, sin = torch.cos(angles), torch.sin(angles)
    y, x = size[0] / 2, size[1] / 2
    from_x = torch.stack([cos, sin, x - x * cos - y * sin], dim=1)
    from_y = torch.stack([-sin, cos, y + x * sin - y * cos], dim=1)
    return torch.stack([from_x, from_y], dim=1)


def shear_x(factors: Tensor, size: tuple[int, int]) -> Tensor:
    """Matrices that move every row by `factors`, `(B,)`, times its distance from the top."""
    del size
    return _identity_with(factors, row=0, column=1)


def shear_y(factors: Tensor, size: tuple[int, int]) -> Tensor:
    """Matrices that move every column by `factors`, `(B,)`, times its distance from the left."""
    del size
    return _identity_with(factors, row=1, column=0)


def translation_x(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Matrices that move images to the left by `shares`, `(B,)`, of their width."""
    return _identity_with(shares * size[1], row=0, column=2)


def translation_y(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Matrices that move images up by `shares`, `(B,)`, of their height."""
    return _identity_with(shares * size[0], row=1, column=2)


def _identity_with(values: Tensor, *, row: int, column: int) -> Tensor:
    matrices = torch.eye(2, 3, dtype=torch.float64, device=values.device).repeat(len(values), 1, 1)
    matrices[:, row, column] = values.double()
    return matrices


WARPS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "Rotate": rotation,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translation_x,
    "TranslateYRel": translation_y,
}
"""Matrices of strengths, by timm's names."""
AXES: dict[str, Literal["x", "y"]] = {
    "ShearX": "x",
    "TranslateXRel": "x",
    "ShearY": "y",
    "TranslateYRel": "y",
}
"""The axes of those that move pixels along one axis only."""
