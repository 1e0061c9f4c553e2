from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrellis.data.channels import chosen_channels, common_channels, to_channels
from vitrellis.errors import UsageError, VitrellisError


def test_colour_to_grey_is_pillows() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
    assert np.array_equal(to_channels(image, 1, "x")[0].numpy(), np.asarray(pillow))


def test_grey_to_colour_and_back_changes_nothing() -> None:
    batch = torch.arange(256, dtype=torch.uint8).reshape(2, 1, 8, 16)
    colour = to_channels(batch, 3, "x")
    assert colour.shape == (2, 3, 8, 16)
    assert torch.equal(to_channels(colour, 1, "x"), batch)


def test_the_same_number_is_the_same_tensor() -> None:
    image = torch.zeros(5, 2, 2, dtype=torch.uint8)
    assert to_channels(image, 5, "x") is image


@pytest.mark.parametrize(("own", "wanted"), [(4, 3), (3, 4), (1, 2), (2, 1), (3, 2)])
def test_other_numbers_are_refused_by_name(own: int, wanted: int) -> None:
    with pytest.raises(VitrellisError, match=rf"cat\.npy: has {own} channels where {wanted}"):
        to_channels(torch.zeros(own, 2, 2, dtype=torch.uint8), wanted, "cat.npy")


@pytest.mark.parametrize(("own", "wanted"), [(3, 5), (1, 2), (4, 3)])
def test_channels_that_no_image_can_have_are_refused_by_their_key(own: int, wanted: int) -> None:
    with pytest.raises(UsageError, match=rf"input.channels: {wanted}, but a.png has {own} channel"):
        chosen_channels({own: "a.png"}, wanted)
    assert chosen_channels({own: "a.png", 1: "b.png", 3: "c.png"}, 3) == 3
    assert chosen_channels({own: "a.png"}, None) == own


def test_what_a_collection_has() -> None:
    assert common_channels({1: "a"}) == 1
    assert common_channels({7: "a"}) == 7
    assert common_channels({3: "a", 1: "b"}) == 3
    with pytest.raises(VitrellisError, match=r"b\.jpg has 3 channels and a\.npy has 5"):
        common_channels({5: "a.npy", 1: "c.png", 3: "b.jpg"})
