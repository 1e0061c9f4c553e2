"""The maps that guidance compares, as colours: three principal components as red, green and blue.

Maps that live in the same channels, such as a teacher's and a student's after its projection, are
shown in the components of one of them, so that equal colours mean equal features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_TAIL = 0.02
"""The share of the values at either end that is cut off, so that outliers do not dim the rest."""


class GuidedPair(NamedTuple):
    """The maps of a student and a teacher at a depth at which one guides the other."""

    name: str
    """The two blocks, in words."""
    student: Tensor
    """The student's map `(B, C, H, W)`, before the projection."""
    projected: Tensor | None
    """After the projection to the teacher's channels, `(B, C', H, W)`; None without one."""
    teacher: Tensor
    """`(B, C', H', W')`."""


class ColourBasis(NamedTuple):
    """Three directions among the channels, and the range of values along each."""

    mean: Tensor
    """`(C,)`."""
    directions: Tensor
    """`(C, 3)`; columns beyond the number of channels are 0."""
    low: Tensor
    """`(3,)`."""
    high: Tensor
    """`(3,)`."""


def colour_basis(maps: Tensor) -> ColourBasis:
    """The principal components of maps over all their places.

    Args:
        maps: `(B, C, H, W)`.
    """
    values = maps.float().permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, C)
    mean = values.mean(dim=0)
    _, _, rows = torch.linalg.svd(values - mean, full_matrices=False)
    # the sign of a component is by chance: its largest number is made positive
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    directions = F.pad((rows * largest.sign())[:3], (0, 0, 0, 3 - min(3, len(rows)))).mT
    along = (values - mean) @ directions
    return ColourBasis(mean, directions, along.quantile(_TAIL, dim=0), along.quantile(1 - _TAIL, 0))


def colours(maps: Tensor, basis: ColourBasis) -> Tensor:
    """Maps `(B, C, H, W)` as colours `(B, 3, H, W)` in [0, 1]."""
    values = maps.float().permute(0, 2, 3, 1)  # (B, H, W, C)
    along = (values - basis.mean) @ basis.directions
    shares = (along - basis.low) / (basis.high - basis.low).clamp_min(1e-12)
    return shares.clamp(0, 1).permute(0, 3, 1, 2)


def explained(maps: Tensor, target: Tensor) -> float:
    """The share of the target's variance that the maps explain (R squared).

    1 if they are equal, 0 if they are no better than each channel's mean; it can be negative.

    Args:
        maps: `(B, C, H, W)`.
        target: `(B, C, H', W')`; the smaller of the two is resized bilinearly, as in guidance.
    """
    size = [max(a, b) for a, b in zip(maps.shape[-2:], target.shape[-2:], strict=True)]
    maps, target = (
        F.interpolate(m.double(), size, mode="bilinear", align_corners=False)
        for m in (maps, target)
    )
    residual = (maps - target).square().sum()
    total = (target - target.mean(dim=(0, 2, 3), keepdim=True)).square().sum()
    return float(1 - residual / total)
