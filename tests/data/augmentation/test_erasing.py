from __future__ import annotations

import pytest
import torch
from scipy import stats

from vitrellis.data.augmentation.erasing import AREA, Erasing
from vitrellis.data.randomness import sample_keys

KEYS = sample_keys(0, 0, torch.arange(600))
UNTOUCHED = 100.0


def erased(
    probability: float, channels: int = 3, height: int = 24, width: int = 30
) -> torch.Tensor:
    images = torch.full((len(KEYS), channels, height, width), UNTOUCHED)
    return Erasing(probability)(images, KEYS)


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_images_are_erased_as_often_as_asked(probability: float) -> None:
    is_erased = (erased(probability) != UNTOUCHED).flatten(1).any(dim=1)
    assert abs(is_erased.double().mean() - probability) < 0.06


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_what_is_erased_is_a_rectangle_of_all_channels_within_the_areas(channels: int) -> None:
    holes = erased(1.0, channels) != UNTOUCHED
    assert torch.equal(holes.all(dim=1), holes.any(dim=1))
    hole = holes[:, 0]
    rows, columns = hole.any(dim=2), hole.any(dim=1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        edges = side.int().diff(dim=1, prepend=torch.zeros(600, 1), append=torch.zeros(600, 1))
        assert bool((edges.abs().sum(dim=1) == 2).all())  # one run of pixels
        assert not bool(side.all(dim=1).any())  # never a whole side, as in timm
    share = hole.double().mean(dim=(1, 2))
    assert share.min() > AREA[0] * 0.8  # sides are rounded to pixels
    assert share.max() < AREA[1] * 1.1
    assert abs(share.mean() - sum(AREA) / 2) < 0.02


def test_rectangles_lie_everywhere() -> None:
    often = (erased(1.0, 1) != UNTOUCHED).double().mean(dim=(0, 1))
    assert often.min() > 0


def test_the_noise_is_normal_and_differs_between_images_and_channels() -> None:
    images = erased(1.0)
    assert stats.kstest(images[images != UNTOUCHED].numpy()[::37], "norm").pvalue > 1e-4
    assert not torch.equal(images[:, 0], images[:, 1])
    assert images[images != UNTOUCHED].unique().numel() > 100_000


def test_a_sample_is_erased_to_the_same_bits_in_any_company() -> None:
    whole, erasing = erased(0.5), Erasing(0.5)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))[:50]
    images = torch.full((50, 3, 24, 30), UNTOUCHED)
    assert torch.equal(erasing(images, KEYS[order]), whole[order])


def test_images_too_small_for_a_rectangle_stay_whole() -> None:
    assert bool((erased(1.0, height=1, width=9) == UNTOUCHED).all())
