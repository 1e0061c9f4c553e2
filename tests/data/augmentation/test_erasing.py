from __future__ import annotations

import pytest
import torch
from scipy import stats

from vitrellis.data.augmentation import erasing
from vitrellis.data.augmentation.erasing import AREA, Cutout, Erasing
from vitrellis.data.randomness import integers, sample_keys

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
    whole, step = erased(0.5), Erasing(0.5)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))[:50]
    images = torch.full((50, 3, 24, 30), UNTOUCHED)
    assert torch.equal(step(images, KEYS[order]), whole[order])


def test_images_too_small_for_a_rectangle_stay_whole() -> None:
    assert bool((erased(1.0, height=1, width=9) == UNTOUCHED).all())


CUT_KEYS = sample_keys(0, 0, torch.arange(3000))


def holes(side: int, height: int = 12, width: int = 16, channels: int = 1) -> torch.Tensor:
    """Where zeros are, `(B, C, H, W)` bool."""
    return Cutout(side)(torch.ones(len(CUT_KEYS), channels, height, width), CUT_KEYS) == 0


@pytest.mark.parametrize("side", [1, 4, 5, 8])
def test_a_square_lies_around_its_centre_as_far_as_the_image_goes(side: int) -> None:
    found = holes(side)[:, 0]
    centres = integers(CUT_KEYS, "cutout", 2, below=torch.tensor([[12, 16]]))
    for row in range(0, 300, 7):
        expected = torch.zeros(12, 16, dtype=torch.bool)
        top, left = (centres[row] - side // 2).tolist()
        expected[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
        assert torch.equal(found[row], expected)


def test_areas_are_those_of_centres_that_are_equally_likely() -> None:
    areas = holes(8)[:, 0].sum(dim=(1, 2))
    assert areas.max() == 64
    assert areas.min() == 16  # a centre in the corner leaves a quarter
    # a side of 8 shows 4 to 8 pixels: the mean over all centres of a side of 12, and of 16
    down = sum(min(c + 4, 12) - max(c - 4, 0) for c in range(12)) / 12
    across = sum(min(c + 4, 16) - max(c - 4, 0) for c in range(16)) / 16
    assert abs(areas.double().mean() - down * across) < 1.5


def test_every_pixel_is_cut_out_sometimes_and_all_channels_alike() -> None:
    found = holes(4, channels=3)
    assert bool(found.any(dim=0).all())
    assert torch.equal(found.all(dim=1), found.any(dim=1))


def test_the_rest_stays_as_it_is() -> None:
    images = torch.randn(len(CUT_KEYS), 3, 9, 9, generator=torch.Generator().manual_seed(0))
    cut = Cutout(5)(images.clone(), CUT_KEYS)
    assert torch.equal(cut[cut != 0], images[cut != 0])


def test_a_square_larger_than_the_image_leaves_nothing() -> None:
    assert bool(holes(40).all())


def test_a_sample_is_cut_out_of_in_the_same_place_in_any_company() -> None:
    whole = holes(8)
    assert torch.equal(Cutout(8)(torch.ones(9, 1, 12, 16), CUT_KEYS[20:29]) == 0, whole[20:29])


def test_large_images_are_erased_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (20, 3, 150, 160)
    one_by_one = Erasing(0.5)(torch.full(shape, UNTOUCHED), KEYS[:20])
    monkeypatch.setattr(erasing, "LARGE_IMAGE", 1 << 30)
    together = Erasing(0.5)(torch.full(shape, UNTOUCHED), KEYS[:20])
    assert torch.equal(one_by_one, together)
    assert not torch.equal(together, torch.full(shape, UNTOUCHED))
