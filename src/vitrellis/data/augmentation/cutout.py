"""Cutout (DeVries & Taylor, 2017, https://arxiv.org/abs/1708.04552): a square of nothing.

Original code: github.com/uoguelph-mlrg/Cutout. Centres are equally likely everywhere, so that the
square is often cut off by the border, and zero is the mean, images being normalised before.

How we differ: a square of odd side is as large as it says; the code leaves a pixel off each side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitrellis.data.augmentation.boxes import is_inside
from vitrellis.data.randomness import integers


def cut_out(images: Tensor, keys: Tensor, side: int) -> Tensor:
    """Puts zeros in a square of each image, in place, and returns the images.

    Args:
        images: `(B, C, H, W)` float32, normalised.
        keys: `(B,)` of the samples, on the CPU.
        side: Of the square, in pixels.
    """
    height, width = images.shape[-2:]
    below = torch.tensor([[height, width]]).expand(len(keys), 2)
    corners = integers(keys, "cutout", 2, below=below) - side // 2
    squares = torch.cat([corners, torch.full_like(corners, side)], dim=1).to(images.device)
    return images.masked_fill_(is_inside(squares, (height, width)), 0)
