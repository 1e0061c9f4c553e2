"""Operations on whole batches of images, different ones for each image.

A policy draws operations and strengths from the samples' keys (`Policy`); this file applies them.
Small images with the same operation are changed together, and large ones one by one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vitrellis.data.augmentation.blur import blur
from vitrellis.data.augmentation.resampling import Interpolation, replace_rows
from vitrellis.data.augmentation.steps import PixelStep
from vitrellis.data.augmentation.tones import TONES
from vitrellis.data.augmentation.warps import AXES, WARPS, combined, slide, warp, warp_by_pillow
from vitrellis.data.randomness import uniform

CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {**TONES, "Blur": blur}
"""The operations that move nothing: functions of images and strengths."""
OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Contrast",
    "Brightness",
    *WARPS,
    "Color",
    "Sharpness",
    "Hue",
    "Blur",
)
"""All operations, by timm's names where timm has them. Policies draw from them by their place."""
WarpInterpolation = Literal["bilinear", "bicubic", "random"]
"""The kernel of warps; timm, unless told, draws one of the two for each."""
NOTHING = -1
"""Stands in the place of an operation's index for no operation."""

LARGE_IMAGE = 1 << 16
"""Numbers of an image from which a CPU changes images one by one: collecting those with the same
operation takes longer than the operation, and a single image stays in the caches."""


class Layers(NamedTuple):
    """The operations for each image of a batch, in layers one after the other; on the CPU.

    Attributes:
        operations: `(B, layers)` int64, index into `OPERATIONS`, or `NOTHING`.
        strengths: `(B, layers)` float64, in each operation's unit: bits, grey levels, degrees,
            shares, factors or deviations. Undefined for `NOTHING`.
        is_bicubic: `(B, layers)` bool, whether a warp is bicubic; None if all are bilinear.
    """

    operations: Tensor
    strengths: Tensor
    is_bicubic: Tensor | None = None


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
    if images.device.type == "cpu" and images.shape[1:].numel() >= LARGE_IMAGE:
        _one_by_one(images, layers, fill)
        return
    for layer in range(layers.operations.shape[1]):
        is_bicubic = None if layers.is_bicubic is None else layers.is_bicubic[:, layer]
        operate(images, layers.operations[:, layer], layers.strengths[:, layer], fill, is_bicubic)


def _one_by_one(images: Tensor, layers: Layers, fill: Tensor) -> None:
    """`apply_layers`, each image through all layers before the next."""
    size = (images.shape[-2], images.shape[-1])
    operations = layers.operations.tolist()
    for row in range(len(images)):
        image = images[row : row + 1]
        for layer, operation in enumerate(operations[row]):
            if operation == NOTHING:
                continue
            name, strength = OPERATIONS[operation], layers.strengths[row : row + 1, layer]
            if name in CHANGES:
                image.copy_(CHANGES[name](image, strength))
                continue
            is_bicubic = layers.is_bicubic is not None and bool(layers.is_bicubic[row, layer])
            kernel: Interpolation = "bicubic" if is_bicubic else "bilinear"
            matrix = WARPS[name](strength, size)
            if name in AXES:
                image.copy_(slide(image, matrix, fill, AXES[name], kernel))
            elif is_bicubic and images.shape[1] in (1, 3):
                image[0].copy_(warp_by_pillow(image[0], matrix[0], fill, kernel))
            else:
                image.copy_(warp(image, matrix, fill, kernel))


def bicubic_warps(keys: Tensor, num_layers: int, interpolation: WarpInterpolation) -> Tensor | None:
    """Which warps are bicubic, `(B, num_layers)` bool; None if all are bilinear.

    Args:
        keys: `(B,)` of the samples, on the CPU.
        num_layers: Number of operations for each sample.
        interpolation: The kernel, or "random" for one of the two, each as often.
    """
    if interpolation == "random":
        return uniform(keys, "warp-interpolation", num_layers) < 0.5
    if interpolation == "bicubic":
        return torch.ones(len(keys), num_layers, dtype=torch.bool)
    return None


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


def operate(
    images: Tensor,
    operations: Tensor,
    strengths: Tensor,
    fill: Tensor,
    is_bicubic: Tensor | None = None,
) -> None:
    """Applies one operation to each image, in place.

    Args:
        images: `(B, C, H, W)` uint8.
        operations: `(B,)` int64 on the CPU, index into `OPERATIONS`, or `NOTHING`.
        strengths: `(B,)` float64 on the CPU.
        fill: `(C,)` float32, grey levels.
        is_bicubic: `(B,)` bool on the CPU, whether a warp is bicubic; None if all are bilinear.
    """
    if is_bicubic is None:
        is_bicubic = torch.zeros(len(operations), dtype=torch.bool)
    counts = torch.bincount(operations + 1, minlength=len(OPERATIONS) + 1).tolist()
    order = operations.argsort(stable=True)
    cubic = is_bicubic[order].split(counts)[1:]
    sorted_strengths = strengths[order].to(images.device).split(counts)[1:]
    sorted_rows = order.to(images.device).split(counts)[1:]
    calls = {
        name: (rows, _Call(strength, which))
        for name, rows, strength, which in zip(
            OPERATIONS, sorted_rows, sorted_strengths, cubic, strict=True
        )
        if len(rows)
    }
    for name, change in CHANGES.items():
        if name in calls:
            rows, call = calls[name]
            new = change(images.index_select(0, rows), call.strengths)
            replace_rows(images, rows, new)
    warps = {name: call for name, (_, call) in calls.items() if name in WARPS}
    if warps:  # in one, because there are so many of them
        rows = torch.cat([calls[name][0] for name in warps])
        replace_rows(images, rows, _warped(images.index_select(0, rows), warps, fill))


class _Call(NamedTuple):
    """What an operation is to do to its images."""

    strengths: Tensor
    """`(b,)` float64, on the images' device."""
    is_bicubic: Tensor
    """`(b,)` bool, on the CPU; it matters to warps only."""


def _warped(images: Tensor, calls: dict[str, _Call], fill: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    matrices = torch.cat(
        [WARPS[name](call.strengths, (height, width)) for name, call in calls.items()]
    )
    is_bicubic = torch.cat([call.is_bicubic for call in calls.values()])
    if not is_bicubic.any():
        return warp(images, matrices, fill)
    out = torch.empty_like(images)
    kernels: dict[Interpolation, Tensor] = {"bilinear": ~is_bicubic, "bicubic": is_bicubic}
    for interpolation, chosen in kernels.items():
        rows = chosen.nonzero().squeeze(1).to(images.device)
        if len(rows):
            replace_rows(out, rows, warp(images[rows], matrices[rows], fill, interpolation))
    return out
