"""Operations on whole batches of images: every image its own, one after the other.

A policy says which, and how strong, as a function of the samples' keys (`Policy`); here it is
carried out. Images with the same operation are changed together.
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
"""All there are, by timm's names where timm has them."""
NOTHING = -1
"""In the place of an operation's index."""


class Drawn(NamedTuple):
    """What is to be done to each image of a batch, in layers one after the other; on the CPU.

    Attributes:
        chosen: `(B, layers)` int64, index into `OPERATIONS`, or `NOTHING`.
        strengths: `(B, layers)` float64, what operations are told: bits, grey levels, degrees,
            shares, factors or deviations. With `NOTHING` they mean nothing.
    """

    chosen: Tensor
    strengths: Tensor


class Policy(PixelStep):
    """A step that draws operations for each sample."""

    @abstractmethod
    def drawn(self, keys: Tensor, size: tuple[int, int]) -> Drawn:
        """What becomes of each sample.

        Args:
            keys: `(B,)` of the samples, on the CPU.
            size: `(H, W)` of the images in pixels.
        """

    def apply(self, images: Tensor, keys: Tensor, fill: Tensor) -> None:
        """Applies the operations drawn, in place."""
        height, width = images.shape[-2:]
        apply_layers(images, self.drawn(keys, (height, width)), fill)

    def matrices(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """The warps among the operations drawn, in one."""
        return warp_matrices(self.drawn(keys, size), size)


def apply_layers(images: Tensor, drawn: Drawn, fill: Tensor) -> None:
    """Does all layers to the images, in place.

    Args:
        images: `(B, C, H, W)` uint8.
        drawn: By a policy.
        fill: `(C,)` float32, grey levels for what warps bring in from outside.
    """
    for chosen, strengths in zip(drawn.chosen.T, drawn.strengths.T, strict=True):
        operate(images, chosen, strengths, fill)


def warp_matrices(drawn: Drawn, size: tuple[int, int]) -> Tensor:
    """The warps among the operations in one; other operations move nothing.

    Args:
        drawn: By a policy.
        size: `(H, W)` of the images.

    Returns:
        `(B, 2, 3)` float64, as `warp` takes them.
    """
    whole = torch.eye(2, 3, dtype=torch.float64).repeat(len(drawn.chosen), 1, 1)
    for chosen, strengths in zip(drawn.chosen.T, drawn.strengths.T, strict=True):
        matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(chosen), 1, 1)
        for name, matrices_of in WARPS.items():
            rows = (chosen == OPERATIONS.index(name)).nonzero().flatten()
            matrices[rows] = matrices_of(strengths[rows], size)
        whole = combined(whole, matrices)
    return whole


def operate(images: Tensor, chosen: Tensor, strengths: Tensor, fill: Tensor) -> None:
    """One operation to each image, in place.

    Args:
        images: `(B, C, H, W)` uint8.
        chosen: `(B,)` int64 on the CPU, index into `OPERATIONS`, or `NOTHING`.
        strengths: `(B,)` float64 on the CPU.
        fill: `(C,)` float32, grey levels.
    """
    counts = torch.bincount(chosen + 1, minlength=len(OPERATIONS) + 1).tolist()
    order = chosen.argsort(stable=True)
    told = strengths[order].to(images.device).split(counts)[1:]
    rows = order.to(images.device).split(counts)[1:]
    calls = {
        name: (own, strength)
        for name, own, strength in zip(OPERATIONS, rows, told, strict=True)
        if len(own)
    }
    for family, change in _FAMILIES.items():
        names = [name for name in family if name in calls]
        if names:
            own = torch.cat([calls[name][0] for name in names])
            asked = {name: calls[name][1] for name in names}
            replace_rows(images, own, change(images.index_select(0, own), asked, fill))


def _look_up(images: Tensor, asked: dict[str, Tensor], fill: Tensor) -> Tensor:
    del fill
    channels = images.shape[1]
    parts = images.split([len(strength) for strength in asked.values()])
    tables = [
        LOOK_UPS[name](part, strength).expand(-1, channels, -1)
        for part, (name, strength) in zip(parts, asked.items(), strict=True)
    ]
    return look_up(images, torch.cat(tables))


def _warp(images: Tensor, asked: dict[str, Tensor], fill: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    matrices = [WARPS[name](strength, (height, width)) for name, strength in asked.items()]
    return warp(images, torch.cat(matrices), fill)


def _alone(
    change: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]:
    """A family of one: a function of images and strengths."""

    def changed(images: Tensor, asked: dict[str, Tensor], fill: Tensor) -> Tensor:
        del fill
        (strengths,) = asked.values()
        return change(images, strengths)

    return changed


_FAMILIES: dict[tuple[str, ...], Callable[[Tensor, dict[str, Tensor], Tensor], Tensor]] = {
    tuple(LOOK_UPS): _look_up,
    tuple(WARPS): _warp,
    ("Color",): _alone(color),
    ("Sharpness",): _alone(sharpness),
    ("Hue",): _alone(hue),
    ("Blur",): _alone(blur),
}
"""Operations that are done together: a function of images, strengths by operation, and fill."""
