"""From stored images to what a model sees: augmented for training, plain for evaluation.

Both take a whole batch of uint8 images on any device. Order as in timm: crop and flip, RandAugment,
normalisation, random erasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vitrellis.data.geometry import Interpolation, crop_resize, padded_crop
from vitrellis.data.rand_augment import Policy, parse_policy, rand_augment
from vitrellis.data.randomness import uniform

CROP_ATTEMPTS = 10
"""Boxes that a resized crop draws before it takes the centre, as torchvision and timm."""
NOISE_LENGTH = 1 << 18
"""Normal numbers in the table from which random erasing reads its noise."""


class Plain:
    """Evaluation: the whole image at the model's size, normalised.

    Args:
        size: `(h, w)` in pixels.
        mean: Per channel, of images in [0, 1].
        std: Likewise.
        interpolation: How images are resized.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: Interpolation = "bicubic",
    ) -> None:
        self.size = size
        self.interpolation: Interpolation = interpolation
        self._normalize = Normalize(mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, C, h, w)`."""
        if images.shape[-2:] != self.size:
            batch, _, height, width = images.shape
            whole = torch.tensor([0, 0, height, width], device=images.device).expand(batch, 4)
            return self._normalize(crop_resize(images, whole, self.size, self.interpolation))
        return self._normalize(images)


class Augment:
    """Training: every sample varied by what its key says, and by nothing else.

    Args:
        size: `(h, w)` in pixels.
        mean: Per channel, of images in [0, 1].
        std: Likewise.
        crop: "resized": a random part at `size` (Szegedy et al., 2015); "padded": the image moved
            within a black border; "none": the whole image at `size`.
        scale: Smallest and largest share of the area that a resized crop shows.
        ratio: Narrowest and widest aspect of it, width over height.
        padding: Width of the border of a padded crop, at `size`.
        interpolation: How images are resized.
        flip: Probability of mirroring left to right.
        vertical_flip: Probability of mirroring top to bottom.
        rand_augment: timm's notation, or None.
        erasing: Probability of replacing a rectangle by noise (Zhong et al., AAAI 2020).

    Raises:
        UsageError: If `rand_augment` cannot be read.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        crop: Literal["resized", "padded", "none"] = "resized",
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        padding: int = 4,
        interpolation: Interpolation = "bicubic",
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        rand_augment: str | None = None,
        erasing: float = 0.0,
    ) -> None:
        self.size = size
        self.crop = crop
        self.scale = scale
        self.ratio = ratio
        self.padding = padding
        self.interpolation: Interpolation = interpolation
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.policy: Policy | None = parse_policy(rand_augment) if rand_augment else None
        self.erasing = erasing
        self._normalize = Normalize(mean, std)
        self._fill = torch.tensor([round(255 * value) for value in mean]).float()
        generator = torch.Generator().manual_seed(0)
        self._noise = torch.randn(NOISE_LENGTH if erasing > 0 else 0, generator=generator)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` and keys `(B,)` to float32 `(B, C, h, w)`."""
        images = self._crop_and_flip(images, keys)
        if self.policy is not None:
            if images.is_floating_point():
                images = images.round_().to(torch.uint8)
            self._fill = self._fill.to(images.device)
            images = rand_augment(images, keys, self.policy, self._fill)
        out = self._normalize(images)
        return self._erase(out, keys) if self.erasing > 0 else out

    def _crop_and_flip(self, images: Tensor, keys: Tensor) -> Tensor:
        """Floats if the images were resized, uint8 otherwise."""
        batch, _, height, width = images.shape
        flips = uniform(keys, "flip", 2)
        flip_x, flip_y = flips[:, 0] < self.flip, flips[:, 1] < self.vertical_flip
        whole = torch.tensor([0, 0, height, width], device=images.device).expand(batch, 4)
        if self.crop == "resized":
            boxes = random_boxes(keys, (height, width), self.scale, self.ratio)
            return crop_resize(images, boxes, self.size, self.interpolation, flip_x, flip_y)
        if (height, width) != self.size:
            images = crop_resize(images, whole, self.size, self.interpolation)
            images = images.round_().to(torch.uint8)
        padding = self.padding if self.crop == "padded" else 0
        offsets = (uniform(keys, "crop", 2) * (2 * padding + 1)).long()
        return padded_crop(images, offsets, padding, self.size, flip_x, flip_y)

    def _erase(self, images: Tensor, keys: Tensor) -> Tensor:
        """Replaces a rectangle of some normalised images by noise, as timm's pixel mode."""
        rows = (uniform(keys, "erase", 1).squeeze(1) < self.erasing).nonzero().squeeze(1)
        if not len(rows):
            return images
        channels, height, width = images.shape[1:]
        boxes = random_boxes(keys[rows], (height, width), (0.02, 1 / 3), (0.3, 3.3), "erase-box")
        top, left, tall, wide = boxes[:, :, None, None].unbind(dim=1)  # (b, 1, 1)
        y = torch.arange(height, device=images.device)[:, None]
        x = torch.arange(width, device=images.device)
        inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)  # (b, H, W)
        self._noise = self._noise.to(images.device)
        start = (uniform(keys[rows], "erase-noise", 1) * NOISE_LENGTH).long()  # (b, 1)
        pixels = torch.arange(channels * height * width, device=images.device)
        noise = self._noise[(start + pixels) % NOISE_LENGTH].view(-1, channels, height, width)
        images[rows] = torch.where(inside[:, None], noise, images[rows])
        return images


class Normalize:
    """uint8 or float images in [0, 255] to zero mean and unit deviation, per channel.

    Args:
        mean: Of images in [0, 1].
        std: Likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = torch.tensor(std, dtype=torch.float64)
        self._scale = (1 / (255 * deviation)).float().view(1, -1, 1, 1)
        self._shift = (
            (-torch.tensor(mean, dtype=torch.float64) / deviation).float().view(1, -1, 1, 1)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` to float32 of the same shape."""
        self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
        return torch.addcmul(self._shift, images.float(), self._scale)


def random_boxes(
    keys: Tensor,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    stream: str = "box",
) -> Tensor:
    """Boxes of random area, aspect and place.

    The area is uniform, the aspect log-uniform; the first of ten that fits is taken, else the
    largest centred box whose aspect is allowed.

    Args:
        keys: `(B,)` of the samples.
        size: `(H, W)` of the images.
        scale: Smallest and largest share of the area.
        ratio: Narrowest and widest aspect, width over height.
        stream: What the randomness is for.

    Returns:
        `(B, 4)` int64: top, left, height, width.
    """
    height, width = size
    draws = uniform(keys, stream, 2 * CROP_ATTEMPTS + 2)
    areas = draws[:, :CROP_ATTEMPTS] * (scale[1] - scale[0]) + scale[0]  # (B, attempts)
    low, high = torch.tensor(ratio).log().tolist()
    aspects = torch.exp(draws[:, CROP_ATTEMPTS:-2] * (high - low) + low)
    pixels = areas * (height * width)
    widths = torch.sqrt(pixels * aspects).round().long()
    heights = torch.sqrt(pixels / aspects).round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    centre_width = min(width, round(height * aspect))
    centre_height = min(height, round(width / aspect))
    wide = torch.where(found, widths.gather(1, first).squeeze(1), centre_width)
    tall = torch.where(found, heights.gather(1, first).squeeze(1), centre_height)
    top = (draws[:, -2] * (height - tall + 1)).long()
    left = (draws[:, -1] * (width - wide + 1)).long()
    top = torch.where(found, top, (height - centre_height) // 2)
    left = torch.where(found, left, (width - centre_width) // 2)
    return torch.stack([top, left, tall, wide], dim=1)
