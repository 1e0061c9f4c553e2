from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import functional as TF

from vitrellis.data.augmentation.tones import (
    autocontrast,
    brightness,
    color,
    contrast,
    equalize,
    hue,
    invert,
    posterize,
    sharpness,
    solarize,
    solarize_add,
)

FACTORS = [0.1, 0.37, 0.9, 1.0, 1.25, 1.9]


def images(channels: int, height: int = 20, width: int = 26) -> Tensor:
    """Noise, and two pictures of few and middling levels."""
    generator = torch.Generator().manual_seed(0)
    shape = (6, channels, height, width)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    noise[1] = noise[1] // 4 + 90
    noise[2] = noise[2] // 128 * 77
    noise[3] = 200
    return noise


def pillow(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def by_pillow(stored: Tensor, change: Callable[[Image.Image, int], Image.Image]) -> Tensor:
    changed = [np.array(change(pillow(image), row)) for row, image in enumerate(stored)]
    channels, height, width = stored.shape[1:]
    return torch.from_numpy(np.stack(changed)).view(-1, height, width, channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (autocontrast, ImageOps.autocontrast),
        (equalize, ImageOps.equalize),
        (invert, ImageOps.invert),
    ],
    ids=["autocontrast", "equalize", "invert"],
)
def test_what_has_no_strength_is_as_in_pillow(
    channels: int,
    mine: Callable[[Tensor, Tensor], Tensor],
    theirs: Callable[[Image.Image], Image.Image],
) -> None:
    for size in ((20, 26), (150, 77)):
        stored = images(channels, *size)
        expected = by_pillow(stored, lambda image, row: theirs(image))
        assert torch.equal(mine(stored, torch.zeros(6)), expected), f"size {size}"


@pytest.mark.parametrize("channels", [1, 3])
def test_posterize_and_solarize_are_as_in_pillow(channels: int) -> None:
    stored = images(channels)
    bits = torch.tensor([1, 2, 3, 4, 7, 8])
    expected = by_pillow(stored, lambda image, row: ImageOps.posterize(image, int(bits[row])))
    assert torch.equal(posterize(stored, bits), expected)
    levels = torch.tensor([0, 1, 90, 128, 255, 256])
    expected = by_pillow(stored, lambda image, row: ImageOps.solarize(image, int(levels[row])))
    assert torch.equal(solarize(stored, levels), expected)


def test_no_bits_are_black() -> None:
    assert int(posterize(images(1), torch.zeros(6, dtype=torch.int64)).max()) == 0


def test_solarize_add_lifts_dark_levels_only() -> None:
    every_level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    changed = solarize_add(every_level, torch.tensor([100])).flatten().tolist()
    assert changed[:3] == [100, 101, 102]
    assert changed[127:130] == [227, 128, 129]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (brightness, ImageEnhance.Brightness),
        (contrast, ImageEnhance.Contrast),
        (color, ImageEnhance.Color),
        (sharpness, ImageEnhance.Sharpness),
    ],
    ids=["brightness", "contrast", "color", "sharpness"],
)
def test_enhanced_pixels_are_as_in_pillow(
    channels: int,
    mine: Callable[[Tensor, Tensor], Tensor],
    theirs: type[ImageEnhance.Color],
) -> None:
    for size in ((20, 26), (3, 3), (2, 9), (181, 99)):
        stored = images(channels, *size)
        expected = by_pillow(stored, lambda image, row: theirs(image).enhance(FACTORS[row]))
        assert torch.equal(mine(stored, torch.tensor(FACTORS)), expected), f"size {size}"


def test_many_channels_are_treated_as_their_own_images() -> None:
    stored = images(5)
    assert torch.equal(color(stored, torch.tensor(FACTORS)), stored)
    whole = sharpness(stored, torch.tensor(FACTORS))
    for channel in range(5):
        one = stored[:, channel : channel + 1]
        assert torch.equal(sharpness(one, torch.tensor(FACTORS)), whole[:, channel : channel + 1])
        for change in (autocontrast, equalize):
            changed = change(stored, torch.tensor(FACTORS))[:, channel : channel + 1]
            assert torch.equal(change(one, torch.tensor(FACTORS)), changed)


def test_contrast_of_many_channels_goes_towards_their_common_mean() -> None:
    stored = torch.tensor([10, 20, 30, 40, 52], dtype=torch.uint8).view(1, 5, 1, 1)
    assert bool((contrast(stored, torch.tensor([0.0])) == 30).all())


TURNS = [-0.5, -0.17, 0.0, 0.04, 0.1, 0.5]


def test_hues_are_moved_as_by_torchvision() -> None:
    stored = images(3)
    pairs = zip(stored, TURNS, strict=True)
    expected = torch.stack([TF.adjust_hue(image, turn) for image, turn in pairs])
    assert not torch.equal(expected, stored)
    # theirs is cut off rather than rounded
    assert (hue(stored, torch.tensor(TURNS)).int() - expected.int()).abs().max() <= 1


def test_hues_keep_greys_and_come_back() -> None:
    stored = images(3)
    assert torch.equal(hue(stored, torch.zeros(6)), stored)
    grey = stored[:, :1].repeat(1, 3, 1, 1)
    assert torch.equal(hue(grey, torch.tensor(TURNS)), grey)
    third = torch.full((6,), 1 / 3)
    assert torch.equal(hue(stored, third), stored.roll(1, dims=1))  # red becomes green
    assert torch.equal(hue(hue(stored, third), -third), stored)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_only_three_channels_have_hues(channels: int) -> None:
    assert torch.equal(hue(images(channels), torch.tensor(TURNS)), images(channels))
