from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from vitrellis.data.augmentation.transforms import Normalize

MEAN, STD = [0.485, 0.456, 0.406, 0.5, 0.3], [0.229, 0.224, 0.225, 0.25, 0.2]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalization_is_that_of_torchvision(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (7, channels, 9, 11), dtype=torch.uint8, generator=generator)
    mine = Normalize(MEAN[:channels], STD[:channels])(stored)
    expected = TF.normalize(stored.float() / 255, MEAN[:channels], STD[:channels])
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-6)


def test_every_pixel_of_a_level_gets_the_same_bits() -> None:
    flat = torch.full((3, 2, 13, 17), 77, dtype=torch.uint8)
    assert len(Normalize(MEAN[:2], STD[:2])(flat)[:, 1].unique()) == 1


def test_channels_without_a_mean_are_our_mistake() -> None:
    with pytest.raises(AssertionError):
        Normalize(MEAN[:1], STD[:1])(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
