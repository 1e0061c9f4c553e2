from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from vitrellis.data.augmentation.blur import blur
from vitrellis.data.augmentation.color_jitter import Blur, ColorJitter, Greyscale
from vitrellis.data.augmentation.operations import NOTHING, OPERATIONS, Layers, Policy, apply_layers
from vitrellis.data.randomness import sample_keys

KEYS = sample_keys(0, 0, torch.arange(4000))
SIZE = (20, 26)
FULL = ColorJitter((0.4, 0.3, 1.2, 0.1), probability=0.8)
ADJUST: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Brightness": TF.adjust_brightness,
    "Contrast": TF.adjust_contrast,
    "Color": TF.adjust_saturation,
}


def images(batch: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, *SIZE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def done(policy: Policy, stored: Tensor, keys: Tensor = KEYS) -> Tensor:
    changed = stored.clone()
    layers = policy.draw(keys[: len(stored)], SIZE)
    apply_layers(changed, layers, torch.zeros(stored.shape[1]))
    return changed


def in_turn(image: Tensor, layers: Layers, row: int) -> Tensor:
    """An image's layers by torchvision, on Pillow images but for the hue."""
    for index, strength in zip(layers.operations[row], layers.strengths[row].tolist(), strict=True):
        if index == NOTHING:
            continue
        name = OPERATIONS[index]
        if name == "Hue":
            image = TF.adjust_hue(image, strength)
        else:
            picture = ADJUST[name](Image.fromarray(image.permute(1, 2, 0).numpy()), strength)
            image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return image


def strengths_of(policy: Policy, name: str) -> Tensor:
    layers = policy.draw(KEYS, SIZE)
    return layers.strengths[layers.operations == OPERATIONS.index(name)]


@pytest.mark.parametrize("amounts", [(0.4, 0.4, 0.4, 0.0), (0.4, 0.4, 0.4, 0.1)], ids=str)
def test_colours_are_changed_as_by_torchvision(amounts: tuple[float, float, float, float]) -> None:
    policy = ColorJitter(amounts)
    stored = images(60)
    layers = policy.draw(KEYS[:60], SIZE)
    expected = torch.stack([in_turn(image, layers, row) for row, image in enumerate(stored)])
    difference = (done(policy, stored).int() - expected.int()).abs()
    # a hue may be off by one level; of what is off, each factor of up to 1.4 makes 1.4 times as
    # much and, as both are cut off, less than one level more: 1, 2, 3, 5
    assert difference.max() <= (5 if amounts[3] else 0)
    assert (difference > 1).double().mean() < 0.01
    assert (done(policy, stored) != stored).flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    ("name", "least", "greatest"),
    [
        ("Brightness", 0.6, 1.4),
        ("Contrast", 0.7, 1.3),
        ("Color", 0.0, 2.2),
        ("Hue", -0.1, 0.1),
    ],
)
def test_amounts_are_uniform_in_their_ranges(name: str, least: float, greatest: float) -> None:
    strengths = strengths_of(FULL, name)
    assert abs(len(strengths) / len(KEYS) - 0.8) < 0.03
    assert strengths.min() >= least
    assert strengths.max() <= greatest
    shares = (strengths - least) / (greatest - least)
    counts = torch.histc(shares.float(), bins=4, min=0, max=1) / len(shares)
    assert (counts - 0.25).abs().max() < 0.04


def test_all_four_are_done_or_none_in_every_order() -> None:
    operations = FULL.draw(KEYS, SIZE).operations
    is_done = operations != NOTHING
    assert torch.equal(is_done.all(dim=1), is_done.any(dim=1))
    orders, counts = operations[is_done.all(dim=1)].unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert (counts / counts.sum() - 1 / 24).abs().max() < 0.02


def test_what_has_no_amount_is_not_done() -> None:
    operations = ColorJitter((0.0, 0.5, 0.0, 0.0)).draw(KEYS, SIZE).operations
    assert set(operations.unique().tolist()) == {NOTHING, OPERATIONS.index("Contrast")}
    assert bool(((operations != NOTHING).sum(dim=1) == 1).all())


def test_greyscale_is_that_of_torchvision() -> None:
    stored = images(60)
    changed = done(Greyscale(1.0), stored)
    for image, grey in zip(stored, changed, strict=True):
        picture = TF.rgb_to_grayscale(Image.fromarray(image.permute(1, 2, 0).numpy()), 3)
        assert torch.equal(grey, torch.from_numpy(np.array(picture)).permute(2, 0, 1))


def test_probabilities_are_those_asked_for() -> None:
    for policy, asked in ((Greyscale(0.2), 0.2), (Blur(0.5), 0.5), (Blur(1.0), 1.0)):
        is_done = policy.draw(KEYS, SIZE).operations != NOTHING
        assert abs(is_done.double().mean() - asked) < 0.03


def test_blurs_are_of_the_deviations_asked_for() -> None:
    policy = Blur(1.0, (0.5, 1.5))
    sigmas = policy.draw(KEYS, SIZE).strengths[:, 0]
    assert 0.5 <= sigmas.min() < 0.51
    assert 1.49 < sigmas.max() <= 1.5
    assert abs(sigmas.mean() - 1) < 0.02
    stored = images(40)
    assert torch.equal(done(policy, stored), blur(stored, sigmas[:40]))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_without_colours_keep_them(channels: int) -> None:
    stored = images(40, channels)
    assert torch.equal(done(Greyscale(1.0), stored), stored)
    assert torch.equal(done(ColorJitter((0.0, 0.0, 0.9, 0.5)), stored), stored)
    assert not torch.equal(done(FULL, stored), stored)  # brightness and contrast


@pytest.mark.parametrize("policy", [FULL, Greyscale(0.5), Blur(0.5)], ids=str)
def test_a_sample_becomes_the_same_bits_in_any_company(policy: Policy) -> None:
    stored = images(50)
    whole = done(policy, stored)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for rows in (order, order[:9], order[:1]):
        assert torch.equal(done(policy, stored[rows], KEYS[rows]), whole[rows])
