"""Gaussian blur for whole batches, each image by its own deviation.

As in SimCLR (Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709): the kernel is about a tenth
of a side long, and images are mirrored at the outermost pixels.

How we differ: sums are exact, as those of `resampling.crop_resize`. Weights are rounded to
multiples of 2^-14 and the results of the first of the two passes to quarters of a grey level, so
that terms can be added in any order. torchvision's `gaussian_blur` differs by a grey level at most.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.data.augmentation.resampling import cached_parts

WEIGHTS_PER_UNIT = 1 << 14
STEPS_PER_LEVEL = 4
KERNELS_PER_SIDE = 10


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blurs images.

    Args:
        images: `(B, C, H, W)` uint8.
        sigmas: `(B,)` deviations in pixels, positive.

    Returns:
        `(B, C, H, W)` uint8.
    """
    channels, height, width = images.shape[1:]
    tall, wide = kernel_radius(height), kernel_radius(width)
    down, across = (gaussian_kernels(sigmas, radius).float() for radius in (tall, wide))
    out = torch.empty_like(images)
    for part in cached_parts(len(images), 4 * channels * height * width, images.device):
        pixels = F.pad(images[part].float(), (wide, wide, tall, tall), mode="reflect")
        planes = pixels.flatten(0, 1)[None]  # (1, b * C, H', W')
        groups = planes.shape[1]
        kernels = across[part].repeat_interleave(channels, dim=0)  # (b * C, 2 * wide + 1)
        planes = F.conv2d(planes, kernels[:, None, None, :], groups=groups)
        planes = planes.mul_(STEPS_PER_LEVEL).add_(0.5).floor_().div_(STEPS_PER_LEVEL)
        kernels = down[part].repeat_interleave(channels, dim=0)
        planes = F.conv2d(planes, kernels[:, None, :, None], groups=groups)
        out[part] = planes.add_(0.5).short().view_as(out[part])
    return out


def kernel_radius(side: int) -> int:
    """Pixels of the kernel on each side of its middle: at least 1, less than the side.

    Args:
        side: The image's height or width in pixels.
    """
    return min(max(1, side // KERNELS_PER_SIDE // 2), side - 1)


def gaussian_kernels(sigmas: Tensor, radius: int) -> Tensor:
    """Weights of a middle pixel and its neighbours on both sides.

    Args:
        sigmas: `(B,)` deviations in pixels.
        radius: Number of neighbours on each side.

    Returns:
        `(B, 2 * radius + 1)` float64, multiples of 2^-14 whose sum is exactly 1.
    """
    distance = torch.arange(-radius, radius + 1, device=sigmas.device)
    weights = torch.exp(-0.5 * (distance / sigmas.double()[:, None]).square())
    weights = (weights / weights.sum(dim=1, keepdim=True) * WEIGHTS_PER_UNIT).round()
    weights[:, radius] += WEIGHTS_PER_UNIT - weights.sum(dim=1)
    return weights / WEIGHTS_PER_UNIT
