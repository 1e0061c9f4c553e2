"""Crops of single images, each from its own pixels: those of torchvision's and timm's transforms.

The box is drawn for the size of the image itself, and resized by torch, as in torchvision's
`RandomResizedCrop` of tensors. On image files, Pillow does it, there and in timm's
`RandomResizedCropAndInterpolation`; a pixel differs by a grey level (see `resize_bytes`). Whoever
reads images cuts them; the rest of the augmentation works on whole batches.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vitrellis.data.augmentation.crops import CropAndFlip
from vitrellis.data.augmentation.resampling import resize_bytes


class Cut(NamedTuple):
    """What is shown of one image.

    Attributes:
        box: Top, left, height and width in pixels.
        flip_x: Whether left and right are exchanged.
        flip_y: Whether up and down are exchanged.
    """

    box: tuple[int, int, int, int]
    flip_x: bool
    flip_y: bool


class Cutter:
    """Cuts one view of each image, at the model's size.

    Random crops come out flipped, because that costs nothing here. Of images that are shown whole,
    or moved within a border, flips and movements are left to `TrainTransform.after_cut`.

    Args:
        geometry: The crops and flips of the view.
    """

    def __init__(self, geometry: CropAndFlip) -> None:
        self.geometry = geometry

    @property
    def size(self) -> tuple[int, int]:
        """`(h, w)` of the result in pixels."""
        return self.geometry.size

    def plan(self, keys: Tensor, sizes: Tensor) -> list[Cut]:
        """What to cut, as a function of keys and sizes alone.

        Args:
            keys: `(n,)` int64 keys of the samples, on the CPU.
            sizes: `(n, 2)` int64 heights and widths of the images.
        """
        boxes = self.geometry.boxes(keys, sizes).tolist()
        flips = self.geometry.flips(keys) & (self.geometry.crop == "resized")
        return [
            Cut((top, left, height, width), flip_x, flip_y)
            for (top, left, height, width), (flip_x, flip_y) in zip(
                boxes, flips.tolist(), strict=True
            )
        ]

    def cut(self, image: Tensor, what: Cut, out: Tensor) -> None:
        """Fills `out`, uint8 `(C, h, w)`, from an image, uint8 `(C, H, W)`, both on the CPU."""
        top, left, height, width = what.box
        part = image[:, top : top + height, left : left + width]
        pixels = resize_bytes(part, self.size, self.geometry.interpolation)
        mirrored = [d for d, is_on in ((2, what.flip_x), (1, what.flip_y)) if is_on]
        out.copy_(pixels.flip(mirrored) if mirrored else pixels)
