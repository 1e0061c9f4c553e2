from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import AutoAugment as Published
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

from vitrellis.data.augmentation.operations import NOTHING, OPERATIONS, apply_layers, operate
from vitrellis.data.augmentation.policies import AutoAugment, PolicyName, auto_strengths
from vitrellis.data.randomness import sample_keys

POLICIES: tuple[PolicyName, ...] = ("cifar10", "imagenet", "svhn")
FILL = (124, 116, 104)
KEYS = sample_keys(0, 0, torch.arange(5000))
SIZE = (26, 32)
WARPS = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
OWN_NAMES = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}
PAIRS = {name: Published(AutoAugmentPolicy(name)).policies for name in POLICIES}
USED = sorted(
    {(name, number) for pairs in PAIRS.values() for pair in pairs for name, _, number in pair},
    key=str,
)
"""Every operation at every magnitude of every policy."""


def images(batch: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, *SIZE)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    noise[: batch // 2] = noise[: batch // 2] // 3 + 60  # of less contrast
    return noise


def by_torchvision(image: Tensor, name: str, number: int | None, sign: int) -> Tensor:
    """One operation as torchvision's AutoAugment does it to a Pillow image."""
    channels = image.shape[0]
    published = Published(interpolation=InterpolationMode.BILINEAR, fill=list(FILL[:channels]))
    published.policies = [((name, 1.0, number), ("Invert", 0.0, None))]
    draws = (0, torch.tensor([0.5, 0.5]), torch.tensor([int(sign > 0), 0]))
    published.get_params = lambda _: draws
    pixels = image.permute(1, 2, 0).numpy()
    changed = published(Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels))
    return torch.from_numpy(np.array(changed)).view(*SIZE, channels).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_is_that_of_torchvision(channels: int) -> None:
    stored = images(6, channels)
    for (name, number), sign in itertools.product(USED, (-1, 1)):
        case = f"{name} {number}, sign {sign}"
        mine = stored.clone()
        operations = torch.full((6,), OPERATIONS.index(OWN_NAMES.get(name, name)))
        magnitudes = torch.full((6,), number or 0)
        strengths = auto_strengths(operations, magnitudes, torch.full((6,), float(sign)), SIZE)
        operate(mine, operations, strengths, torch.tensor(FILL[:channels]).float())
        expected = torch.stack([by_torchvision(image, name, number, sign) for image in stored])
        difference = (mine.int() - expected.int()).abs().amax(dim=1)  # (6, H, W)
        if name in WARPS:
            # ours are summed in single precision, and levels cut off: one may come out lower. And a
            # shear by a fifth takes every fifth row's pixel from exactly the border: in or out
            assert (difference > 1).sum(dim=(1, 2)).max() <= SIZE[1] // 5, case
        else:
            assert difference.max() == 0, case
        if (number or 0) > 1 and not (channels == 1 and name == "Color"):
            assert not torch.equal(expected, stored), f"{case}: there is nothing to compare"


@pytest.mark.parametrize("name", POLICIES)
def test_pairs_are_drawn_equally_often_and_done_with_their_probabilities(name: PolicyName) -> None:
    policy = AutoAugment(name)
    layers = policy.draw(KEYS, SIZE)
    expected = torch.zeros(2, len(OPERATIONS))
    for pair in PAIRS[name]:
        for layer, (operation, share, _) in enumerate(pair):
            index = OPERATIONS.index(OWN_NAMES.get(operation, operation))
            expected[layer, index] += share / len(PAIRS[name])
    for layer in range(2):
        operations = layers.operations[:, layer]
        counts = torch.bincount(operations[operations != NOTHING], minlength=len(OPERATIONS))
        # four standard deviations of 5,000 draws
        assert (counts / len(KEYS) - expected[layer]).abs().max() < 4 * (0.25 / len(KEYS)) ** 0.5


def test_only_published_pairs_occur() -> None:
    layers = AutoAugment("cifar10").draw(KEYS, SIZE)
    names = [[OWN_NAMES.get(name, name) for name, _, _ in pair] for pair in PAIRS["cifar10"]]
    published = {tuple(OPERATIONS.index(name) for name in pair) for pair in names}
    both = (layers.operations != NOTHING).all(dim=1)
    never = {  # a probability of zero
        tuple(OPERATIONS.index(OWN_NAMES.get(name, name)) for name, _, _ in pair)
        for pair in PAIRS["cifar10"]
        if 0.0 in (pair[0][1], pair[1][1])
    }
    assert {tuple(pair) for pair in layers.operations[both].tolist()} == published - never


def test_an_operation_goes_both_ways_equally_often() -> None:
    layers = AutoAugment("svhn").draw(KEYS, SIZE)
    is_shear = layers.operations == OPERATIONS.index("ShearY")
    assert is_shear.sum() > 1000
    assert abs(layers.strengths[is_shear].sign().mean()) < 0.1


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", POLICIES)
def test_a_sample_becomes_the_same_bits_in_any_company(name: PolicyName, channels: int) -> None:
    policy, fill = AutoAugment(name), torch.zeros(channels)
    stored = images(60, channels)
    whole = stored.clone()
    apply_layers(whole, policy.draw(KEYS[:60], SIZE), fill)
    assert not torch.equal(whole, stored)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for rows in (order, order[:7], order[:1]):
        part = stored[rows].clone()
        apply_layers(part, policy.draw(KEYS[rows], SIZE), fill)
        assert torch.equal(part, whole[rows])
