"""From stored images to what a model sees: augmented for training, plain for evaluation.

Both take a whole batch of uint8 images on any device. Order as in timm: crop and flip, RandAugment,
normalisation, random erasing. What is random is decided on the CPU, in a few numbers for each
image, so that it is the same on every device and an accelerator is never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vitrellis.data.boxes import crop_boxes
from vitrellis.data.erasing import Erasing
from vitrellis.data.geometry import Interpolation, cached_parts, crop_resize, padded_crop
from vitrellis.data.rand_augment import parse_policy, rand_augment
from vitrellis.data.randomness import integers, uniform


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
        return self._normalize(_resize(images, self.size, self.interpolation, dtype=torch.float32))


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
        erasing: Probability of replacing a rectangle by noise.

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
        self.padding = padding if crop == "padded" else 0
        self.interpolation: Interpolation = interpolation
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.policy = None if rand_augment is None else parse_policy(rand_augment)
        self._normalize = Normalize(mean, std)
        self._erasing = Erasing(erasing) if erasing > 0 else None
        self._fill = torch.tensor([min(255.0, round(255 * value)) for value in mean])

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augments a batch.

        Args:
            images: uint8 `(B, C, H, W)`.
            keys: `(B,)` of the samples; best on the CPU, whatever the images are on.

        Returns:
            float32 `(B, C, h, w)`, normalised.
        """
        keys = keys.cpu()
        images = self._crop_and_flip(images, keys)  # no longer the caller's
        if self.policy is not None:
            self._fill = self._fill.to(images.device)
            rand_augment(images, keys, self.policy, self._fill)
        out = self._normalize(images)
        return out if self._erasing is None else self._erasing(out, keys)

    def _crop_and_flip(self, images: Tensor, keys: Tensor) -> Tensor:
        """`(B, C, h, w)`, uint8 unless nothing but normalisation follows a resize."""
        size, device = (images.shape[-2], images.shape[-1]), images.device
        chances = torch.tensor([self.flip, self.vertical_flip])
        flip_x, flip_y = (uniform(keys, "flip", 2) < chances).to(device).unbind(dim=1)
        if self.crop == "resized":
            boxes = crop_boxes(keys, size, self.scale, self.ratio).to(device)
            dtype = torch.float32 if self.policy is None else torch.uint8
            return crop_resize(
                images, boxes, self.size, self.interpolation, flip_x, flip_y, dtype=dtype
            )
        images = _resize(images, self.size, self.interpolation, dtype=torch.uint8)
        offsets = integers(keys, "padded-crop", 2, below=2 * self.padding + 1).to(device)
        return padded_crop(images, offsets, self.padding, self.size, flip_x, flip_y)


class Normalize:
    """uint8 or float images in [0, 255] to zero mean and unit deviation, per channel.

    Args:
        mean: Of images in [0, 1].
        std: Likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        self._scale = (1 / (255 * deviation)).float()
        self._shift = (-torch.tensor(mean).double().view(1, -1, 1, 1) / deviation).float()

    def __call__(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` to float32 of the same shape; floats are overwritten."""
        channels, device = images.shape[1], images.device
        assert channels == self._scale.shape[1], (
            f"{channels} channels, {self._scale.shape[1]} means"
        )
        self._scale, self._shift = self._scale.to(device), self._shift.to(device)
        is_float = images.is_floating_point()
        out = images if is_float else torch.empty(images.shape, device=device)
        for part in cached_parts(len(images), images.shape[1:].numel(), device):
            pixels = out[part] if is_float else out[part].copy_(images[part])
            # two roundings wherever a pixel lies; a fused one would depend on its place
            pixels.mul_(self._scale).add_(self._shift)
        return out


def _resize(
    images: Tensor, size: tuple[int, int], interpolation: Interpolation, *, dtype: torch.dtype
) -> Tensor:
    """Whole images at `size`: of `dtype` if they had to be resized, uint8 as they are otherwise."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    whole = torch.tensor([0, 0, height, width], device=images.device).expand(len(images), 4)
    return crop_resize(images, whole, size, interpolation, dtype=dtype)
