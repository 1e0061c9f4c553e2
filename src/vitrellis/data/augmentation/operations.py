"""Operations on whole batches of images, different ones for each image.

A policy draws operations and strengths from the samples' keys (`Policy`); this file applies them.
Images with the same operation are changed together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vitrellis.data.augmentation.blur import blur
from vitrellis.data.augmentation.resampling import replace_rows
from vitrellis.data.augmentation.steps import PixelStep
from vitrellis.data.augmentation.tones import LOOK_UPS, color, hue, look_up, sharpness
from vitrellis.data.augmentation.warps import WARPS, combined, warp

OPERATIONS = (*LOOK_UPS, *WARPS, "Color", "Sharpness", "Hue", "Blur")
"""All operations, by timm's names where timm has them."""
NOTHING = -1
"""Stands in the place of an operation's index for no operation."""


class Layers(NamedTuple):
    """The operations for each image of a batch, in layers one after the other; on the CPU.

    Attributes:
        operations: `(B, layers)` int64, index into `OPERATIONS`, or `NOTHING`.
        strengths: `(B, layers)` float64, in each operation's unit: bits, grey levels, degrees,
            shares, factors or deviations. Undefined for `NOTHING`.
    """

    operations: Tensor
    strengths: Tensor


class Policy(PixelStep):
    """A step that draws operations for each sample."""

    @abstractmethod
    def draw(self, keys: Tensor, size: tuple[int, int]) -> Layers:
        """The operations for each sample.

        Args:
            keys: `(B,)` of the samples, on the CPU.
            size: `(H, W)` of the images in pixels.
        """

    def apply(self, images: Tensor, keys: Tensor, fill: Tensor) -> None:
        """Applies the operations drawn, in place."""
        height, width = images.shape[-2:]
        apply_layers(images, self.draw(keys, (height, width)), fill)

    def matrices(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """The warps among the operations drawn, in one."""
        return warp_matrices(self.draw(keys, size), size)


def apply_layers(images: Tensor, layers: Layers, fill: Tensor) -> None:
    """Applies all layers to the images, in place.

    Args:
        images: `(B, C, H, W)` uint8.
        layers: The operations that a policy drew.
        fill: `(C,)` float32, the grey levels that warps put outside of the image.
    """
    for operations, strengths in zip(layers.operations.T, layers.strengths.T, strict=True):
        operate(images, operations, strengths, fill)


def warp_matrices(layers: Layers, size: tuple[int, int]) -> Tensor:
    """The warps among the operations in one; other operations move nothing.

    Args:
        layers: The operations that a policy drew.
        size: `(H, W)` of the images.

    Returns:
        `(B, 2, 3)` float64, as `warp` takes them.
    """
    whole = torch.eye(2, 3, dtype=torch.float64).repeat(len(layers.operations), 1, 1)
    for operations, strengths in zip(layers.operations.T, layers.strengths.T, strict=True):
        matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(operations), 1, 1)
        for name, matrices_of in WARPS.items():
            rows = (operations == OPERATIONS.index(name)).nonzero().flatten()
            matrices[rows] = matrices_of(strengths[rows], size)
        whole = combined(whole, matrices)
    return whole


def operate(images: Tensor, operations: Tensor, strengths: Tensor, fill: Tensor) -> None:
    """Applies one operation to each image, in place.

    Args:
        images: `(B, C, H, W)` uint8.
        operations: `(B,)` int64 on the CPU, index into `OPERATIONS`, or `NOTHING`.
        strengths: `(B,)` float64 on the CPU.
        fill: `(C,)` float32, grey levels.
    """
    counts = torch.bincount(operations + 1, minlength=len(OPERATIONS) + 1).tolist()
    order = operations.argsort(stable=True)
    sorted_strengths = strengths[order].to(images.device).split(counts)[1:]
    sorted_rows = order.to(images.device).split(counts)[1:]
    calls = {
        name: (rows, strength)
        for name, rows, strength in zip(OPERATIONS, sorted_rows, sorted_strengths, strict=True)
        if len(rows)
    }
    for family, change in _FAMILIES.items():
        names = [name for name in family if name in calls]
        if names:
            rows = torch.cat([calls[name][0] for name in names])
            by_name = {name: calls[name][1] for name in names}
            replace_rows(images, rows, change(images.index_select(0, rows), by_name, fill))


def _look_up(images: Tensor, strengths: dict[str, Tensor], fill: Tensor) -> Tensor:
    del fill
    channels = images.shape[1]
    parts = images.split([len(strength) for strength in strengths.values()])
    tables = [
        LOOK_UPS[name](part, strength).expand(-1, channels, -1)
        for part, (name, strength) in zip(parts, strengths.items(), strict=True)
    ]
    return look_up(images, torch.cat(tables))


def _warp(images: Tensor, strengths: dict[str, Tensor], fill: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    matrices = [WARPS[name](strength, (height, width)) for name, strength in strengths.items()]
    return warp(images, torch.cat(matrices), fill)


def _alone(
    change: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]:
    """A family of one: a function of images and strengths."""

    def changed(images: Tensor, strengths: dict[str, Tensor], fill: Tensor) -> Tensor:
        del fill
        (strength,) = strengths.values()
        return change(images, strength)

    return changed


_FAMILIES: dict[tuple[str, ...], Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]] = {
    tuple(LOOK_UPS): _look_up,
    tuple(WARPS): _warp,
    ("Color",): _alone(color),
    ("Sharpness",): _alone(sharpness),
    ("Hue",): _alone(hue),
    ("Blur",): _alone(blur),
}
"""Operations that are applied together: a function of images, strengths by operation, and fill."""
