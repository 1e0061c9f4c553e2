"""From stored images to what a model sees: augmented for training, plain for evaluation.

Both take a whole batch of uint8 images on any device. Order as in timm and torchvision: crop and
flip, AutoAugment or RandAugment, colour jitter, greyscale, blur, normalisation, random erasing,
Cutout. What is random is decided on the CPU, in a few numbers for each
image, so that it is the same on every device and an accelerator is never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vitrellis.data.augmentation.crops import (
    Interpolation,
    cached_parts,
    crop_boxes,
    crop_resize,
    padded_crop,
)
from vitrellis.data.augmentation.erasing import Erasing, cut_out
from vitrellis.data.augmentation.operations import Policy, apply_layers, warp_matrices
from vitrellis.data.augmentation.policies import (
    AutoAugment,
    Blur,
    ColorJitter,
    Greyscale,
    PolicyName,
    parse_policy,
)
from vitrellis.data.augmentation.warps import combined
from vitrellis.data.randomness import integers, uniform


class EvalTransform:
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
        if images.shape[-2:] == self.size:
            return self._normalize(images)
        return crop_resize(
            images, _whole(images), self.size, self.interpolation, finish=self._normalize.into
        )


class TrainTransform:
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
        auto_augment: What a published policy was learned on, or None. Not with `rand_augment`.
        color_jitter: Of brightness, contrast, saturation and hue, see `ColorJitter`.
        color_jitter_probability: Of an image whose colours vary at all.
        grayscale: Probability of losing all colour.
        blur: Probability of being blurred.
        blur_sigma: Least and greatest deviation of the blur, in pixels at `size`.
        erasing: Probability of replacing a rectangle by noise.
        cutout: Side in pixels of a square that is replaced by zeros; 0 for none.

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
        auto_augment: PolicyName | None = None,
        color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        color_jitter_probability: float = 1.0,
        grayscale: float = 0.0,
        blur: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        erasing: float = 0.0,
        cutout: int = 0,
    ) -> None:
        assert rand_augment is None or auto_augment is None, "a recipe has one of them"
        self.size = size
        self.crop = crop
        self.scale = scale
        self.ratio = ratio
        self.padding = padding if crop == "padded" else 0
        self.interpolation: Interpolation = interpolation
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.policies: list[Policy] = []
        if auto_augment is not None:
            self.policies.append(AutoAugment(auto_augment))
        if rand_augment is not None:
            self.policies.append(parse_policy(rand_augment))
        if any(color_jitter):
            self.policies.append(ColorJitter(color_jitter, color_jitter_probability))
        if grayscale > 0:
            self.policies.append(Greyscale(grayscale))
        if blur > 0:
            self.policies.append(Blur(blur, blur_sigma))
        self.cutout = cutout
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
        images = self._crop_and_flip(images, keys)  # no longer the caller's memory
        self._fill = self._fill.to(images.device)
        for policy in self.policies:
            apply_layers(images, policy.drawn(keys, self.size), self._fill)
        if images.dtype == torch.uint8:
            images = self._normalize(images)
        if self._erasing is not None:
            images = self._erasing(images, keys)
        return cut_out(images, keys, self.cutout) if self.cutout > 0 else images

    def origins(self, keys: Tensor, stored: tuple[int, int]) -> Tensor:
        """Where each pixel of an augmented image comes from: crop, flips and warps in one.

        Args:
            keys: `(B,)` of the samples.
            stored: `(H, W)` of the images before.

        Returns:
            `(B, 2, 3)` float64 on the CPU: from `(x, y, 1)` in the result to x and y in the stored
            image, in pixels, with centres at halves.
        """
        keys = keys.cpu()
        (height, width), (tall, wide) = stored, self.size
        flips = uniform(keys, "flip", 2) < torch.tensor([self.flip, self.vertical_flip])
        if self.crop == "resized":
            boxes = crop_boxes(keys, stored, self.scale, self.ratio).double()
            corner, shown = boxes[:, [1, 0]], boxes[:, [3, 2]]  # x before y, (B, 2)
            step = shown / torch.tensor([wide, tall])
        else:
            step = torch.tensor([[width / wide, height / tall]]).double().repeat(len(keys), 1)
            offsets = integers(keys, "padded-crop", 2, below=2 * self.padding + 1)[:, [1, 0]]
            corner = (offsets.double() - self.padding) * step
        ends = corner + step * torch.tensor([wide, tall])
        step, corner = torch.where(flips, -step, step), torch.where(flips, ends, corner)
        matrices = torch.zeros(len(keys), 2, 3, dtype=torch.float64)
        matrices[:, 0, 0], matrices[:, 1, 1] = step.unbind(dim=1)
        matrices[:, :, 2] = corner
        for policy in self.policies:
            warps = warp_matrices(policy.drawn(keys, self.size), self.size)
            matrices = combined(matrices, warps)
        return matrices

    def _crop_and_flip(self, images: Tensor, keys: Tensor) -> Tensor:
        """`(B, C, h, w)` uint8, or already normalised where that is all that is left to do."""
        height, width = images.shape[-2:]
        device = images.device
        chances = torch.tensor([self.flip, self.vertical_flip])
        flip_x, flip_y = (uniform(keys, "flip", 2) < chances).to(device).unbind(dim=1)
        if self.crop == "resized":
            boxes = crop_boxes(keys, (height, width), self.scale, self.ratio).to(device)
            settings = (boxes, self.size, self.interpolation, flip_x, flip_y)
            if not self.policies:
                return crop_resize(images, *settings, finish=self._normalize.into)
            return crop_resize(images, *settings, dtype=torch.uint8)
        if (height, width) != self.size:
            boxes = _whole(images)
            images = crop_resize(images, boxes, self.size, self.interpolation, dtype=torch.uint8)
        offsets = integers(keys, "padded-crop", 2, below=2 * self.padding + 1).to(device)
        return padded_crop(images, offsets, self.padding, self.size, flip_x, flip_y)


def _whole(images: Tensor) -> Tensor:
    """Boxes around everything, `(B, 4)`."""
    box = torch.tensor([0, 0, *images.shape[-2:]], device=images.device)
    return box.expand(len(images), 4)


class Normalize:
    """Grey levels in [0, 255] to zero mean and unit deviation, per channel.

    Args:
        mean: Of images in [0, 1].
        std: Likewise.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        deviation = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        self._scale = (1 / (255 * deviation)).float()
        self._shift = (-torch.tensor(mean).double().view(1, -1, 1, 1) / deviation).float()

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
        # two roundings wherever a pixel lies; a fused one would depend on its place
        torch.mul(levels, self._scale, out=out)
        out.add_(self._shift)
