from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrellis.data.augmentation.resampling import Interpolation
from vitrellis.data.augmentation.warps import (
    AXES,
    WARPS,
    rotation,
    shear_x,
    shear_y,
    slide,
    translation_x,
    translation_y,
    warp,
    warp_by_pillow,
)

SIZE = (24, 30)
FILL = (124, 116, 104)
STRENGTHS = torch.tensor([-0.3017, -0.11337, 0.0, 0.01741, 0.20713, 0.29871], dtype=torch.float64)


KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def images(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, channels, *SIZE), dtype=torch.uint8, generator=generator)


def pillow_affine(
    image: Image.Image, coefficients: tuple[float, ...], kernel: Image.Resampling
) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=kernel, fillcolor=FILL
    )


def pillow_rotate(image: Image.Image, degrees: float, kernel: Image.Resampling) -> Image.Image:
    return image.rotate(degrees, resample=kernel, fillcolor=FILL)


CASES: list[
    tuple[Callable[[Tensor, tuple[int, int]], Tensor], float, Callable[..., Image.Image]]
] = [
    (rotation, 100.0, pillow_rotate),
    (shear_x, 1.0, lambda image, s, k: pillow_affine(image, (1, s, 0, 0, 1, 0), k)),
    (shear_y, 1.0, lambda image, s, k: pillow_affine(image, (1, 0, 0, s, 1, 0), k)),
    (translation_x, 1.0, lambda image, s, k: pillow_affine(image, (1, 0, s * 30, 0, 1, 0), k)),
    (translation_y, 1.0, lambda image, s, k: pillow_affine(image, (1, 0, 0, 0, 1, s * 24), k)),
]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("matrices", "unit", "theirs"), CASES)
def test_warps_are_those_of_pillow(
    interpolation: Interpolation,
    matrices: Callable[[Tensor, tuple[int, int]], Tensor],
    unit: float,
    theirs: Callable[..., Image.Image],
) -> None:
    stored = images(3)
    fill = torch.tensor(FILL).float()
    mine = warp(stored, matrices(STRENGTHS * unit, SIZE), fill, interpolation)
    for row, strength in enumerate(STRENGTHS.tolist()):
        picture = Image.fromarray(stored[row].permute(1, 2, 0).numpy())
        expected = np.array(theirs(picture, strength * unit, KERNELS[interpolation]))
        difference = (mine[row].permute(1, 2, 0).int() - torch.from_numpy(expected).int()).abs()
        # both truncate; single and double precision fall on different sides of a level
        assert difference.max() <= 1
        assert (difference > 0).double().mean() < 0.02


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_rows_and_columns_slide_as_by_warps(
    channels: int, name: str, interpolation: Interpolation
) -> None:
    stored, fill = images(channels), torch.arange(channels) * 50.0
    for strengths in (STRENGTHS, STRENGTHS * 3, torch.full((6,), 2.0), torch.full((6,), -1.0)):
        matrices = WARPS[name](strengths, SIZE)
        slid = slide(stored, matrices, fill, AXES[name], interpolation)
        difference = (slid.int() - warp(stored, matrices, fill, interpolation).int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).double().mean() < 0.02


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_no_slide_changes_nothing(axis: Literal["x", "y"], interpolation: Interpolation) -> None:
    still = torch.eye(2, 3, dtype=torch.float64).expand(6, 2, 3)
    assert torch.equal(slide(images(3), still, torch.zeros(3), axis, interpolation), images(3))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pillows_warps_are_ours(channels: int, interpolation: Interpolation) -> None:
    stored, fill = images(channels), torch.tensor(FILL[:channels]).float()
    matrices = rotation(STRENGTHS * 100, SIZE)
    ours = warp(stored, matrices, fill, interpolation)
    for row in range(6):
        theirs = warp_by_pillow(stored[row], matrices[row], fill, interpolation)
        difference = (ours[row].int() - theirs.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).double().mean() < 0.02


def test_a_large_image_is_not_changed_by_no_strength() -> None:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (1, 3, 384, 400), dtype=torch.uint8, generator=generator)
    assert torch.equal(warp(stored, rotation(torch.zeros(1), (384, 400)), torch.zeros(3)), stored)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 5])
def test_no_strength_changes_nothing(channels: int, interpolation: Interpolation) -> None:
    stored, fill = images(channels), torch.zeros(channels)
    for matrices, _, _ in CASES:
        still = warp(stored, matrices(torch.zeros(6), SIZE), fill, interpolation)
        assert torch.equal(still, stored)


def test_what_comes_from_outside_is_filled_by_channel() -> None:
    fill = torch.tensor([1.0, 2, 3, 4])
    away = warp(images(4), translation_x(torch.full((6,), 2.0), SIZE), fill)
    assert torch.equal(away.float(), fill.view(1, 4, 1, 1).expand(6, 4, *SIZE))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_image_is_warped_to_the_same_bits_in_any_company(interpolation: Interpolation) -> None:
    stored, matrices, fill = images(3), rotation(STRENGTHS * 100, SIZE), torch.zeros(3)
    whole = warp(stored, matrices, fill, interpolation)
    assert torch.equal(warp(stored[4:5], matrices[4:5], fill, interpolation), whole[4:5])
