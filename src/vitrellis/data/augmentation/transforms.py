"""From stored images to a model's input in training: augmented and normalised.

A whole batch of uint8 images is augmented at once, on any device. Order as in timm and torchvision:
crop and flip, AutoAugment or RandAugment, colour jitter, greyscale, blur, normalisation, random
erasing, Cutout. Random numbers are drawn on the CPU, a few for each image, so that they are the
same on every device and the CPU never waits for an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vitrellis.data.augmentation.crops import CropAndFlip
from vitrellis.data.augmentation.resampling import Interpolation, cached_parts
from vitrellis.data.augmentation.steps import NormalizedStep, PixelStep
from vitrellis.data.augmentation.threads import in_threads, one_thread
from vitrellis.data.augmentation.view import View
from vitrellis.data.augmentation.warps import combined
from vitrellis.data.canvas import Fit

SHARED_NUMBERS = 1 << 20
"""Numbers of results from which threads of a CPU share a batch."""
PART_NUMBERS = 1 << 22
"""Most numbers of results that a thread makes at once; their memory is used again and again."""


class TrainTransform:
    """Training: every sample is augmented as a function of its key alone.

    Args:
        view: The settings of the augmentation; None to give its keys instead.
        size: `(h, w)` in pixels.
        mean: Mean per channel, of images in [0, 1].
        std: Standard deviation per channel.
        fit: How whole images of another shape are made to fit.
        keys: The keys of a `View`, such as `crop="padded"`, where no view is given.

    Raises:
        UsageError: If `rand_augment` cannot be read.
    """

    def __init__(
        self,
        view: View | None = None,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        fit: Fit = "squash",
        **keys: Any,
    ) -> None:
        assert view is None or not keys, "a view, or its keys"
        view = View(**keys) if view is None else view
        self.size = size
        self.interpolation: Interpolation = view.interpolation
        self.geometry = CropAndFlip(view, size, fit)
        steps = view.steps()
        self._on_pixels = [step for step in steps if isinstance(step, PixelStep)]
        self._on_normalized = [step for step in steps if isinstance(step, NormalizedStep)]
        self._normalize = Normalize(mean, std)
        self._fill = torch.tensor([min(255.0, round(255 * value)) for value in mean])

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augments a batch.

        Args:
            images: uint8 `(B, C, H, W)`.
            keys: `(B,)` int64 keys of the samples; best on the CPU, wherever the images are.

        Returns:
            float32 `(B, C, h, w)`, normalised.
        """
        return self._in_parts(self._whole, images, keys.cpu())

    def after_cut(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augments images that a `Cutter` has brought to the model's size.

        Args:
            images: uint8 `(B, C, h, w)`, which are changed.
            keys: `(B,)` int64 keys of the samples.

        Returns:
            float32 `(B, C, h, w)`, normalised.
        """
        if self.geometry.crop != "resized":  # flips, and crops within a border, are still to come
            return self(images, keys)
        return self._in_parts(self._after, images, keys.cpu())

    def _in_parts(
        self, augment: Callable[[Tensor, Tensor], Tensor], images: Tensor, keys: Tensor
    ) -> Tensor:
        """The results of `augment`; of a large batch on a CPU, each thread makes a share."""
        numbers = images.shape[1] * self.size[0] * self.size[1]  # of each result
        if images.device.type != "cpu" or torch.get_num_threads() == 1:
            return augment(images, keys)
        if len(images) * numbers < SHARED_NUMBERS:
            with one_thread():
                return augment(images, keys)
        out = torch.empty(len(images), images.shape[1], *self.size)
        length = max(1, PART_NUMBERS // numbers)

        def fill(rows: slice) -> None:
            for start in range(rows.start, rows.stop, length):
                part = slice(start, min(start + length, rows.stop))
                out[part] = augment(images[part], keys[part])

        in_threads(len(images), images.device, fill)
        return out

    def _whole(self, images: Tensor, keys: Tensor) -> Tensor:
        # normalised at once where no step comes between; no longer the caller's memory
        finish = None if self._on_pixels else self._normalize.into
        return self._after(self.geometry(images, keys, finish), keys)

    def _after(self, images: Tensor, keys: Tensor) -> Tensor:
        self._fill = self._fill.to(images.device)
        for step in self._on_pixels:
            step.apply(images, keys, self._fill)
        if images.dtype == torch.uint8:
            images = self._normalize(images)
        for last_step in self._on_normalized:
            images = last_step(images, keys)
        return images

    def origins(self, keys: Tensor, stored: tuple[int, int] | Tensor) -> Tensor:
        """The origin of each pixel of an augmented image: crop, flips and warps in one matrix.

        Args:
            keys: `(B,)` int64 keys of the samples.
            stored: `(H, W)` of the stored images, or `(B, 2)` int64, one for each.

        Returns:
            `(B, 2, 3)` float64 on the CPU: from `(x, y, 1)` in the result to x and y in the stored
            image, in pixels, with centres at halves.
        """
        keys = keys.cpu()
        matrices = self.geometry.matrices(keys, torch.as_tensor(stored).view(-1, 2))
        for step in self._on_pixels:
            movement = step.matrices(keys, self.size)
            if movement is not None:
                matrices = combined(matrices, movement)
        return matrices


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The two factors of normalisation: grey levels times the first, plus the second.

    Args:
        mean: Mean per channel, of images in [0, 1].
        std: Standard deviation per channel.

    Returns:
        Scale and shift, each float32 `(1, C, 1, 1)`.
    """
    deviation = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
    shift = -torch.tensor(mean).double().view(1, -1, 1, 1) / deviation
    return (1 / (255 * deviation)).float(), shift.float()


class Normalize:
    """Grey levels in [0, 255] to zero mean and unit deviation, per channel.

    Args:
        mean: Mean per channel, of images in [0, 1].
        std: Standard deviation per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._scale, self._shift = scale_and_shift(mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 of the same shape."""
        out = torch.empty(images.shape, device=images.device)
        for part in cached_parts(len(images), images.shape[1:].numel(), images.device):
            self.into(out[part], out[part].copy_(images[part]))
        return out

    def into(self, out: Tensor, levels: Tensor) -> None:
        """Normalises float grey levels into `out`, both `(B, C, H, W)`."""
        assert out.shape[1] == self._scale.shape[1], "as many means as channels"
        self._scale, self._shift = self._scale.to(out.device), self._shift.to(out.device)
        # always two roundings: a fused operation's result would depend on the pixel's place
        torch.mul(levels, self._scale, out=out)
        out.add_(self._shift)
