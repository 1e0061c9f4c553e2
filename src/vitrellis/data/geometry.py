"""Batched geometry: every sample its own crop, flip or warp, without a loop over samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["bilinear", "bicubic"]


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation,
    flip_x: Tensor | None = None,
    flip_y: Tensor | None = None,
) -> Tensor:
    """Crops a box of each image and resizes it, antialiased, as torchvision and Pillow do.

    Resizing is linear and separable: two matrix products per image, and a flip costs nothing.

    Args:
        images: `(B, C, H, W)` float, or uint8.
        boxes: `(B, 4)` top, left, height, width in pixels.
        size: `(h, w)` of the result.
        interpolation: The kernel.
        flip_x: `(B,)` bool, which results to mirror left to right.
        flip_y: `(B,)` bool, which results to mirror top to bottom.

    Returns:
        `(B, C, h, w)` float32, in the range of the images.
    """
    images = images.float()
    top, left, height, width = boxes.float().unbind(dim=1)
    rows = resize_matrix(top, height, images.shape[-2], size[0], interpolation)  # (B, h, H)
    columns = resize_matrix(left, width, images.shape[-1], size[1], interpolation)  # (B, w, W)
    if flip_y is not None:
        rows = torch.where(flip_y[:, None, None], rows.flip(1), rows)
    if flip_x is not None:
        columns = torch.where(flip_x[:, None, None], columns.flip(1), columns)
    resized = rows[:, None] @ images @ columns.mT[:, None]
    # bicubic kernels overshoot; 8-bit pictures cannot
    return resized.clamp_(0, 255) if interpolation == "bicubic" else resized


def resize_matrix(
    start: Tensor, length: Tensor, num_in: int, num_out: int, interpolation: Interpolation
) -> Tensor:
    """The matrix that resizes one side of a crop.

    Args:
        start: `(B,)` first pixel of the crop.
        length: `(B,)` its length in pixels.
        num_in: Pixels of the whole side.
        num_out: Pixels of the result.
        interpolation: The kernel, widened where the result is smaller than the crop.

    Returns:
        `(B, num_out, num_in)`, rows sum to 1.
    """
    scale = (length / num_out)[:, None, None]  # (B, 1, 1)
    width = scale.clamp_min(1.0)
    out = torch.arange(num_out, device=start.device) + 0.5
    centres = start[:, None, None] + out[None, :, None] * scale  # (B, num_out, 1)
    pixels = torch.arange(num_in, device=start.device, dtype=torch.float32)
    weights = _kernel((pixels + 0.5 - centres) / width, interpolation)  # (B, num_out, num_in)
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])  # (B, num_in)
    weights = weights * inside[:, None]
    return weights / weights.sum(dim=-1, keepdim=True)


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
        flip_x: `(B,)` bool, which results to mirror left to right.
        flip_y: `(B,)` bool, which results to mirror top to bottom.

    Returns:
        `(B, C, h, w)` uint8.
    """
    batch, channels = images.shape[:2]
    device = images.device
    padded = F.pad(images, (padding,) * 4)
    row, column = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
    rows = torch.where(flip_y[:, None], row.flip(0), row) + offsets[:, :1]  # (B, h)
    columns = torch.where(flip_x[:, None], column.flip(0), column) + offsets[:, 1:]  # (B, w)
    width = padded.shape[-1]
    positions = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (B, h * w)
    flat = padded.flatten(2)  # (B, C, H' * W')
    taken = flat.gather(2, positions[:, None].expand(-1, channels, -1))
    return taken.view(batch, channels, *size)


def warp(images: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """Affine warps as Pillow's `Image.transform`, bilinear.

    Args:
        images: `(B, C, H, W)` float.
        matrices: `(B, 2, 3)`: where each output pixel `(x, y, 1)` comes from, in pixels, with
            centres at halves.
        fill: `(C,)` value of what comes from outside.

    Returns:
        `(B, C, H, W)`.
    """
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device) + 0.5,
        torch.arange(width, device=images.device) + 0.5,
        indexing="ij",
    )
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (H, W, 3)
    origins = torch.einsum("bij,hwj->bhwi", matrices, places)  # (B, H, W, 2)
    extent = origins.new_tensor([width, height])
    warped = F.grid_sample(
        images, origins / extent * 2 - 1, padding_mode="border", align_corners=False
    )
    inside = ((origins >= 0) & (origins < extent)).all(dim=-1)  # (B, H, W)
    return torch.where(inside[:, None], warped, fill.view(1, -1, 1, 1))


def _kernel(x: Tensor, interpolation: Interpolation) -> Tensor:
    """Triangle, or Keys' cubic with a = -0.5, as in Pillow."""
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_min(0)
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
