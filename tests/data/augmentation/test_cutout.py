from __future__ import annotations

import pytest
import torch

from vitrellis.data.augmentation.erasing import cut_out
from vitrellis.data.randomness import integers, sample_keys

KEYS = sample_keys(0, 0, torch.arange(3000))


def holes(side: int, height: int = 12, width: int = 16, channels: int = 1) -> torch.Tensor:
    """Where zeros are, `(B, C, H, W)` bool."""
    return cut_out(torch.ones(len(KEYS), channels, height, width), KEYS, side) == 0


@pytest.mark.parametrize("side", [1, 4, 5, 8])
def test_a_square_lies_around_its_centre_as_far_as_the_image_goes(side: int) -> None:
    found = holes(side)[:, 0]
    centres = integers(KEYS, "cutout", 2, below=torch.tensor([[12, 16]]))
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
    images = torch.randn(len(KEYS), 3, 9, 9, generator=torch.Generator().manual_seed(0))
    cut = cut_out(images.clone(), KEYS, 5)
    assert torch.equal(cut[cut != 0], images[cut != 0])


def test_a_square_larger_than_the_image_leaves_nothing() -> None:
    assert bool(holes(40).all())


def test_a_sample_is_cut_out_of_in_the_same_place_in_any_company() -> None:
    whole = holes(8)
    assert torch.equal(cut_out(torch.ones(9, 1, 12, 16), KEYS[20:29], 8) == 0, whole[20:29])
