"""Batched crops and resizing: every sample its own, without a loop over samples.

Two ways lead to a resized crop. Small results, and those on other devices, are matrix products of
a whole batch. Large results on a CPU are made one by one by torch's resizing of bytes, which is
what torchvision does with tensors, to the bit, and several times as fast.

The products are exact: weights are rounded to multiples of 2^-14 and the results of the first
of the two passes to whole grey levels (as Pillow and torchvision do, with 22 and up to 15 bits), so
that every sum fits the 24 bits of a float32 and its terms can be added in any order. The bits of
such a result then depend neither on the other images of the batch nor on the device. A large result
depends on whether the device is a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["bilinear", "bicubic"]

CACHED_NUMBERS = 1 << 19
"""Numbers per part of a batch on a CPU, to stay within its caches."""
TABLED_NUMBERS = 1 << 23
"""Greatest size of a table of the matrices of all crops of a side, computed once and kept."""
LARGE_RESULT = 1 << 13
"""Numbers of a result from which a CPU resizes images one by one: colours of 52 pixels."""


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation,
    flip_x: Tensor | None = None,
    flip_y: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    finish: Callable[[Tensor, Tensor], object] = Tensor.copy_,
) -> Tensor:
    """Crops a box of each image and resizes it, antialiased, as torchvision and Pillow do.

    Small images take two matrix products each, and a flip costs nothing. torchvision's
    `resized_crop(..., antialias=True)` of a uint8 image differs by a grey level at most, and not at
    all if the result is large and on a CPU. (Its `antialias=False` is another kernel for bicubic
    enlargement, too.)

    Args:
        images: `(B, C, H, W)` uint8.
        boxes: `(B, 4)` int64 top, left, height, width in pixels.
        size: `(h, w)` of the result.
        interpolation: The kernel.
        flip_x: `(B,)` bool, True to mirror a result left to right.
        flip_y: `(B,)` bool, True to mirror a result top to bottom.
        dtype: uint8 for whole grey levels; float32 for levels before rounding, where the way to the
            result knows them.
        finish: Fills its first argument, part of the result, from its second, grey levels.

    Returns:
        `(B, C, h, w)` in [0, 255], unless finished otherwise.
    """
    batch, channels, height, width = images.shape
    straight = torch.zeros(batch, dtype=torch.bool, device=images.device)
    flip_x, flip_y = straight if flip_x is None else flip_x, straight if flip_y is None else flip_y
    top, left, tall, wide = boxes.unbind(dim=1)
    half = torch.tensor(0.5, device=images.device)  # to round by flooring
    out = torch.empty(batch, channels, *size, dtype=dtype, device=images.device)
    if images.device.type == "cpu" and out.shape[1:].numel() >= LARGE_RESULT:
        flips = [
            [d for d, is_on in ((3, x), (2, y)) if is_on]
            for x, y in zip(flip_x.tolist(), flip_y.tolist(), strict=True)
        ]
        _resize_one_by_one(images, boxes.tolist(), flips, interpolation, out, finish)
        return out
    numbers = max(channels * size[0] * size[1], size[0] * height, size[1] * width)
    for part in cached_parts(batch, numbers, images.device):
        rows = _matrices(top[part], tall[part], flip_y[part], height, size[0], interpolation)
        columns = _matrices(left[part], wide[part], flip_x[part], width, size[1], interpolation)
        pixels = images[part].transpose(1, 2).float().flatten(1, 2)  # (b, H * C, W)
        squeezed = torch.baddbmm(half, pixels, columns.mT)  # (b, H * C, w)
        squeezed = _clamp(squeezed, interpolation).floor_().unflatten(1, (height, channels))
        levels = torch.bmm(rows, squeezed.flatten(2))  # (b, h, C * w)
        levels = _clamp(levels, interpolation).unflatten(2, (channels, size[1]))
        if dtype == torch.uint8:
            levels = levels.add_(0.5).short()  # floats become bytes faster by way of integers
        finish(out[part], levels.transpose(1, 2))
    return out


def resize_bytes(image: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Resizes one image on a CPU, antialiased: rows, then columns, each to whole grey levels.

    torch's kernel of bytes is that of Pillow-SIMD, with AVX2 five times as fast as Pillow's own.
    Pillow differs by a grey level, and by more in few pixels since its version 13, which resizes
    columns first where that is faster.

    Args:
        image: uint8 `(C, H, W)`. Pixel by pixel in memory, colours need no copy.
        size: `(h, w)` of the result.
        interpolation: The kernel.

    Returns:
        uint8 `(C, h, w)`.
    """
    if len(image) == 3:
        # the order of channels for which torch has its fastest kernel
        pixels = image[None].contiguous(memory_format=torch.channels_last)
        return F.interpolate(pixels, size, mode=interpolation, antialias=True)[0]
    planes = image.unsqueeze(1).contiguous()  # (C, 1, H, W)
    return F.interpolate(planes, size, mode=interpolation, antialias=True)[:, 0]


def _resize_one_by_one(
    images: Tensor,
    boxes: list[list[int]],
    flips: list[list[int]],
    interpolation: Interpolation,
    out: Tensor,
    finish: Callable[[Tensor, Tensor], object],
) -> None:
    """`crop_resize` into `out`; `flips` are the dimensions that are mirrored."""
    for row, (top, left, tall, wide) in enumerate(boxes):
        crop = images[row, :, top : top + tall, left : left + wide]
        levels = resize_bytes(crop, (out.shape[2], out.shape[3]), interpolation)[None]
        levels = levels.flip(flips[row]) if flips[row] else levels
        own = out[row : row + 1]
        finish(own, levels if out.dtype == torch.uint8 else own.copy_(levels))


def resize_matrices(
    start: Tensor,
    length: Tensor,
    mirrored: Tensor,
    num_in: int,
    num_out: int,
    interpolation: Interpolation,
) -> Tensor:
    """The matrices that resize one side of crops.

    Args:
        start: `(B,)` first pixel of each crop.
        length: `(B,)` its length in pixels.
        mirrored: `(B,)` bool, True to put the last pixel first.
        num_in: Pixels of the whole side.
        num_out: Pixels of the result.
        interpolation: The kernel, widened where the result is smaller than the crop.

    Returns:
        `(B, num_out, num_in)`, multiples of 2^-14; rows sum to 1, give or take their rounding.
    """
    scale = (length / num_out)[:, None]  # (B, 1)
    out = torch.arange(num_out, device=start.device) + 0.5
    out = torch.where(mirrored[:, None], out.flip(0), out)  # (B, num_out)
    centres = (start[:, None] + out * scale)[:, :, None]  # (B, num_out, 1)
    pixels = torch.arange(num_in, device=start.device) + 0.5
    distances = (pixels - centres).mul_(1 / scale.clamp_min(1.0)[:, :, None]).abs_()
    inside = (pixels > start[:, None]) & (pixels < (start + length)[:, None])  # (B, num_in)
    weights = _to_grid(_kernel(distances, interpolation).mul_(inside[:, None]))
    return _to_grid(weights.div_(weights.sum(dim=-1, keepdim=True)))


def padded_crop(
    images: Tensor,
    offsets: Tensor,
    padding: int,
    size: tuple[int, int],
    flip_x: Tensor,
    flip_y: Tensor,
) -> Tensor:
    """Moves each image within a black border, and cuts it out at `offsets`.

    Args:
        images: `(B, C, H, W)` uint8.
        offsets: `(B, 2)` int64 top and left in the padded image.
        padding: Width of the border.
        size: `(h, w)` of the result.
        flip_x: `(B,)` bool, True to mirror a result left to right.
        flip_y: `(B,)` bool, True to mirror a result top to bottom.

    Returns:
        `(B, C, h, w)` uint8.
    """
    channels, device = images.shape[1], images.device
    padded = F.pad(images, (padding,) * 4)
    row, column = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
    rows = torch.where(flip_y[:, None], row.flip(0), row) + offsets[:, :1]  # (B, h)
    columns = torch.where(flip_x[:, None], column.flip(0), column) + offsets[:, 1:]  # (B, w)
    width = padded.shape[-1]
    positions = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, h * w)
    flat = padded.flatten(2)  # (B, C, H' * W')
    return flat.gather(2, positions[:, None].expand(-1, channels, -1)).unflatten(2, size)


def replace_rows(images: Tensor, rows: Tensor, new: Tensor) -> None:
    """`images[rows] = new`, ten times as fast.

    Args:
        images: `(B, C, H, W)` uint8, contiguous.
        rows: `(b,)` int64.
        new: `(b, C, H, W)` uint8, contiguous.
    """
    if images.shape[1:].numel() % 8 == 0:  # eight bytes at a time
        images, new = (pixels.flatten(1).view(torch.int64) for pixels in (images, new))
    images.index_copy_(0, rows, new)


def cached_parts(batch: int, numbers_per_image: int, device: torch.device) -> Iterator[slice]:
    """Cuts a batch into parts that fit a CPU's caches; other devices take it whole.

    Args:
        batch: Number of images.
        numbers_per_image: Numbers in memory for each.
        device: The device that computes.
    """
    size = max(1, CACHED_NUMBERS // max(1, numbers_per_image))
    if device.type != "cpu":
        size = max(1, batch)
    for start in range(0, batch, size):
        yield slice(start, start + size)


def _matrices(
    start: Tensor,
    length: Tensor,
    mirrored: Tensor,
    num_in: int,
    num_out: int,
    interpolation: Interpolation,
) -> Tensor:
    """`resize_matrices`, looked up in a table where images are small."""
    num_crops = num_in * (num_in + 1) // 2
    if 2 * num_crops * num_in * num_out > TABLED_NUMBERS:
        return resize_matrices(start, length, mirrored, num_in, num_out, interpolation)
    table = _all_matrices(num_in, num_out, interpolation, start.device)
    place = (length - 1) * (2 * num_in + 2 - length) // 2 + start
    return table.index_select(0, place + mirrored * num_crops)


@lru_cache(maxsize=16)
def _all_matrices(
    num_in: int, num_out: int, interpolation: Interpolation, device: torch.device
) -> Tensor:
    """The matrices of all crops, by length and then start; behind them the mirrored ones."""
    crops = [(first, n) for n in range(1, num_in + 1) for first in range(num_in - n + 1)]
    start, length = torch.tensor(crops * 2, device=device).unbind(dim=1)
    mirrored = torch.arange(2, device=device).repeat_interleave(len(crops)) == 1
    parts = [
        resize_matrices(start[p], length[p], mirrored[p], num_in, num_out, interpolation)
        for p in cached_parts(len(start), num_in * num_out, device)
    ]
    return torch.cat(parts)


def _kernel(distances: Tensor, interpolation: Interpolation) -> Tensor:
    """Triangle, or Keys' cubic with a = -0.5 as in Pillow, of distances >= 0.

    The cubic's two pieces are a sum of two that vanish, with their slopes, at 1 and 2.
    """
    near = (1 - distances).clamp_min_(0)
    if interpolation == "bilinear":
        return near
    far = distances.neg_().add_(2).clamp_min_(0)
    inner = near.square().mul_(near.mul_(-2).add_(1))
    outer = far.square().mul_(far.sub_(1)).mul_(0.5)
    return inner.add_(outer)


def _to_grid(weights: Tensor) -> Tensor:
    """Rounds numbers far below 256 to multiples of 2^-14, which are the floats above 512."""
    return weights.add_(768).sub_(768)


def _clamp(pixels: Tensor, interpolation: Interpolation) -> Tensor:
    """Cubic kernels overshoot; 8-bit pictures cannot."""
    return pixels.clamp_(0, 255) if interpolation == "bicubic" else pixels
