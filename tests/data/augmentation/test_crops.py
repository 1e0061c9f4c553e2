from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import RandomResizedCrop

from vitrellis.data.augmentation.crops import crop_boxes, random_boxes
from vitrellis.data.randomness import sample_keys

KEYS = sample_keys(0, 0, torch.arange(4000))
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@pytest.mark.parametrize("size", [(32, 32), (28, 60), (7, 5)])
def test_boxes_lie_within_the_image(size: tuple[int, int]) -> None:
    top, left, height, width = crop_boxes(KEYS, size, SCALE, RATIO).unbind(dim=1)
    assert bool(((top >= 0) & (height > 0) & (top + height <= size[0])).all())
    assert bool(((left >= 0) & (width > 0) & (left + width <= size[1])).all())


@pytest.mark.parametrize("size", [(64, 64), (48, 90)])
def test_boxes_are_distributed_as_torchvision_draws_them(size: tuple[int, int]) -> None:
    mine = crop_boxes(KEYS, size, SCALE, RATIO).double().numpy()
    torch.manual_seed(0)
    image = torch.zeros(1, *size)
    crop = RandomResizedCrop(8, scale=SCALE, ratio=RATIO)
    drawn = [crop.make_params([image]) for _ in range(4000)]
    theirs = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn], float)
    for side in range(4):
        assert stats.ks_2samp(mine[:, side], theirs[:, side]).pvalue > 1e-4
    areas = (mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3])
    assert stats.ks_2samp(*areas).pvalue > 1e-4


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((20, 100), [0, 36, 20, 27]),  # too wide: the middle, 4:3
        ((100, 20), [36, 0, 27, 20]),  # too narrow: the middle, 3:4
        ((20, 20), [0, 0, 20, 20]),
    ],
)
def test_where_nothing_fits_the_largest_centred_box_is_taken(
    size: tuple[int, int], expected: list[int]
) -> None:
    # areas beyond the image's own
    boxes = crop_boxes(KEYS[:3], size, (30.0, 31.0), RATIO)
    assert boxes.tolist() == [expected] * 3


def test_boxes_that_do_not_fit_are_told() -> None:
    fits = random_boxes(KEYS, (8, 8), (0.9, 1.0), (0.3, 3.0), largest=(7, 7), stream="a").fits
    assert not bool(fits.all())


def test_a_box_is_the_same_in_any_company() -> None:
    whole = crop_boxes(KEYS, (32, 40), SCALE, RATIO)
    assert torch.equal(crop_boxes(KEYS[99:100], (32, 40), SCALE, RATIO), whole[99:100])
