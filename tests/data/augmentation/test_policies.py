from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor

from vitrellis.data.augmentation.operations import NOTHING, Layers, apply_layers, operate
from vitrellis.data.augmentation.policies import (
    CHOICES,
    AutoAugment,
    RandAugment,
    parse_policy,
    strengths,
)
from vitrellis.data.randomness import sample_keys
from vitrellis.errors import UsageError

MAGNITUDES = [0.0, 0.7, 2.5, 4.9, 6.1, 7.3, 9.0, 9.4, 9.97]
FILL = (124, 116, 104)
WITH_INCREASING = {"Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"}
KEYS = sample_keys(0, 0, torch.arange(3000))


SMALL = (24, 32)


def images(batch: int, channels: int, size: tuple[int, int] = SMALL) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, *size)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    noise[: batch // 2] = noise[: batch // 2] // 3 + 60  # of less contrast
    return noise


def by_timm(image: Tensor, name: str, magnitude: float, kernel: Image.Resampling) -> Tensor:
    """The operation as timm does it to one Pillow image."""
    channels = image.shape[0]
    operation = auto_augment.AugmentOp(
        name,
        prob=1.0,
        magnitude=magnitude,
        hparams={
            "img_mean": FILL if channels == 3 else FILL[0],
            "interpolation": kernel,
        },
    )
    pixels = image.permute(1, 2, 0).numpy()
    picture = operation(Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels))
    return torch.from_numpy(np.array(picture)).view(*image.shape[1:], channels).permute(2, 0, 1)


def rand_augment(stored: Tensor, keys: Tensor, policy: RandAugment, fill: Tensor) -> None:
    apply_layers(stored, policy.draw(keys, (24, 32)), fill)


def test_operations_are_those_of_timm() -> None:
    assert set(CHOICES) == set(auto_augment.rand_augment_choices("", increasing=False))
    expected = {f"{name}Increasing" if name in WITH_INCREASING else name for name in CHOICES}
    assert expected == set(auto_augment.rand_augment_choices("", increasing=True))


@pytest.mark.parametrize(
    ("channels", "size"), [(1, SMALL), (3, SMALL), (1, (255, 260)), (3, (151, 160))]
)
@pytest.mark.parametrize(
    ("increasing", "kernel"),
    [
        (True, Image.Resampling.BILINEAR),
        (False, Image.Resampling.BILINEAR),
        (True, Image.Resampling.BICUBIC),
    ],
)
def test_each_operation_is_that_of_timm(
    increasing: bool,
    kernel: Image.Resampling,
    channels: int,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, sign in itertools.product(CHOICES, (-1.0, 1.0)):
        with monkeypatch.context() as patch:
            patch.setattr(auto_augment, "_randomly_negate", lambda value, s=sign: s * value)
            assert_equal_to_timm(name, sign, increasing, kernel, channels, size)


def assert_equal_to_timm(
    name: str,
    sign: float,
    increasing: bool,
    kernel: Image.Resampling,
    channels: int,
    size: tuple[int, int],
) -> None:
    theirs = f"{name}Increasing" if increasing and name in WITH_INCREASING else name
    # newer Pillow refuses to keep no bits at all; large images, which are slow, have two magnitudes
    magnitudes = [m for m in MAGNITUDES if name != "Posterize" or increasing or m >= 2.5]
    magnitudes = magnitudes if size == SMALL else [4.9, 9.4]
    stored = images(len(magnitudes), channels, size)
    mine = stored.clone()
    operations = torch.full((len(magnitudes), 1), CHOICES.index(name))
    levels = torch.tensor(magnitudes, dtype=torch.float64)[:, None]
    layers = Layers(
        operations,
        strengths(operations, levels, torch.full(operations.shape, sign), increasing),
        torch.full(operations.shape, kernel == Image.Resampling.BICUBIC),
    )
    apply_layers(mine, layers, torch.tensor(FILL[:channels]).float())
    is_warp = name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
    for row, magnitude in enumerate(magnitudes):
        expected = by_timm(stored[row], theirs, magnitude, kernel)
        difference = (mine[row].int() - expected.int()).abs()
        what = f"{name}, sign {sign}, magnitude {magnitude}"
        assert difference.max() <= (1 if is_warp else 0), what
        # where the weights are fifths, the two sides truncate many whole levels differently
        assert (difference > 0).double().mean() < 0.08, what


@pytest.mark.parametrize("policy", [parse_policy("rand-m9-n2"), AutoAugment("cifar10")])
def test_the_kernel_of_warps_is_drawn_or_named(policy: RandAugment | AutoAugment) -> None:
    shares = {}
    for interpolation in ("bilinear", "bicubic", "random"):
        chosen: Any = copy.copy(policy)
        object.__setattr__(chosen, "warp_interpolation", interpolation)
        layers = chosen.draw(KEYS, (24, 32))
        assert torch.equal(layers.operations, policy.draw(KEYS, (24, 32)).operations)
        is_bicubic = layers.is_bicubic
        shares[interpolation] = 0.0 if is_bicubic is None else float(is_bicubic.float().mean())
    assert shares["bilinear"] == 0
    assert shares["bicubic"] == 1
    assert abs(shares["random"] - 0.5) < 0.02


def test_bilinear_and_bicubic_images_of_one_batch() -> None:
    stored = images(6, 3)
    operations = torch.tensor([CHOICES.index("Rotate"), CHOICES.index("ShearX")] * 3)
    amounts = torch.tensor([12.0, 0.2] * 3, dtype=torch.float64)
    is_bicubic = torch.tensor([True, False, False, True, True, False])
    together, fill = stored.clone(), torch.tensor(FILL).float()
    operate(together, operations, amounts, fill, is_bicubic)
    for kernel in (True, False):
        alone = stored.clone()
        operate(alone, operations, amounts, fill, torch.full((6,), kernel))
        assert torch.equal(together[is_bicubic == kernel], alone[is_bicubic == kernel])
        assert not torch.equal(together[is_bicubic != kernel], alone[is_bicubic != kernel])


def test_every_operation_is_drawn_equally_often_and_half_the_time() -> None:
    policy = parse_policy("rand-m9-mstd0.5-inc1-n3")
    layers = policy.draw(KEYS, (24, 32))
    assert layers.operations.shape == layers.strengths.shape == (3000, 3)
    is_done = layers.operations != NOTHING
    assert abs(is_done.double().mean() - 0.5) < 0.03
    shares = torch.bincount(layers.operations[is_done], minlength=15) / is_done.sum()
    assert (shares - 1 / 15).abs().max() < 0.02
    levels = policy.magnitudes(KEYS)
    assert abs(levels[levels < 9].sub(9).square().mean().sqrt() - 0.5) < 0.02
    assert levels.max() == 10
    degrees = layers.strengths[layers.operations == CHOICES.index("Rotate")]
    torch.testing.assert_close(
        degrees.abs(), 3 * levels[layers.operations == CHOICES.index("Rotate")], rtol=0, atol=1e-9
    )
    assert abs(degrees.sign().mean()) < 0.15  # of 300
    assert not torch.equal(layers.operations[:, 0], layers.operations[:, 1])


@pytest.fixture(params=[1, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch has so many threads during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("num_threads")
@pytest.mark.parametrize("size", [SMALL, (150, 146)])
def test_a_sample_is_augmented_to_the_same_bits_in_any_company(size: tuple[int, int]) -> None:
    policy, fill = parse_policy("rand-m9-mstd0.5-inc1"), torch.tensor(FILL).float()
    whole = images(60, 3, size)
    stored = whole.clone()
    rand_augment(whole, KEYS[:60], policy, fill)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    other = stored[order].clone()
    rand_augment(other, KEYS[order], policy, fill)
    assert torch.equal(other, whole[order])
    alone = stored[7:8].clone()
    rand_augment(alone, KEYS[7:8], policy, fill)
    assert torch.equal(alone, whole[7:8])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels_is_augmented(channels: int) -> None:
    stored = images(60, channels)
    changed = stored.clone()
    rand_augment(changed, KEYS[:60], parse_policy("rand-m9-p1"), torch.zeros(channels))
    assert not torch.equal(changed, stored)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m9-mstd0.5-inc1", RandAugment(9.0, 0.5, 2, 0.5, increasing=True)),
        ("rand", RandAugment(10.0, 0.0, 2, 0.5, increasing=False)),
        ("rand-n3-m7-p0.8-inc0", RandAugment(7.0, 0.0, 3, 0.8, increasing=False)),
    ],
)
def test_timms_notation_is_read(text: str, policy: RandAugment) -> None:
    assert parse_policy(text) == policy


def test_a_very_large_deviation_means_uniform_magnitudes() -> None:
    magnitudes = parse_policy("rand-m8-mstd101").magnitudes(KEYS)
    assert magnitudes.shape == (3000, 2)
    assert abs(magnitudes.mean() - 4) < 0.2
    assert magnitudes.max() < 8


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("augmix-m9", "should begin with 'rand-'"),
        ("rand-m9-mmax20", "'mmax20'; known are"),
        ("rand-tweights", "'tweights'; known are"),
        ("rand-m1.2.3", "'m1.2.3'; known are"),
        ("rand-m11", "after 'm' comes a number up to 10"),
        ("rand-n2.5", "after 'n' comes a whole number"),
        ("rand-p1.5", "after 'p' comes a number up to 1"),
        ("rand-inc2", "after 'inc' comes a whole number up to 1"),
    ],
)
def test_other_notations_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=r"augmentation\.rand_augment") as error:
        parse_policy(text)
    assert complaint in str(error.value)
