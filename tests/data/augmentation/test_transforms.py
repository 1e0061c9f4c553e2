from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vitrellis.data.augmentation import transforms
from vitrellis.data.augmentation.color_jitter import Blur, ColorJitter, Greyscale
from vitrellis.data.augmentation.crops import crop_boxes
from vitrellis.data.augmentation.erasing import Cutout
from vitrellis.data.augmentation.operations import Policy, apply_layers
from vitrellis.data.augmentation.policies import AutoAugment
from vitrellis.data.augmentation.transforms import Normalize, TrainTransform
from vitrellis.data.eval_transform import EvalTransform
from vitrellis.data.randomness import integers, sample_keys, uniform
from vitrellis.errors import UsageError

MEAN, STD = [0.485, 0.456, 0.406, 0.5, 0.3], [0.229, 0.224, 0.225, 0.25, 0.2]
KEYS = sample_keys(3, 1, torch.arange(40))
EVERYTHING: dict[str, Any] = {
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.5,
    "vertical_flip": 0.3,
}
VIEWS: dict[str, dict[str, Any]] = {
    "light": {},
    "everything": EVERYTHING,
    "contrasted": {
        "auto_augment": "cifar10",
        "color_jitter": (0.4, 0.4, 0.4, 0.1),
        "color_jitter_probability": 0.8,
        "grayscale": 0.2,
        "blur": 0.5,
        "cutout": 8,
    },
}
CROPS: list[dict[str, Any]] = [
    {"crop": "resized"},
    {"crop": "padded", "padding": 2},
    {"crop": "none"},
]


def images(channels: int = 3, height: int = 20, width: int = 24, batch: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def augment(channels: int = 3, size: tuple[int, int] = (20, 24), **settings: Any) -> TrainTransform:
    return TrainTransform(size=size, mean=MEAN[:channels], std=STD[:channels], **settings)


def normalized(stored: Tensor) -> Tensor:
    channels = stored.shape[-3]
    return TF.normalize(stored.float() / 255, MEAN[:channels], STD[:channels])


def test_a_resized_crop_shows_its_box() -> None:
    stored = images(1, 40, 30)
    boxes = crop_boxes(KEYS, (40, 30), (0.2, 0.9), (0.5, 2.0))
    out = augment(1, (16, 18), scale=(0.2, 0.9), ratio=(0.5, 2.0), flip=0)(stored, KEYS)
    for row, box in enumerate(boxes.tolist()):
        expected = TF.resized_crop(
            stored[row], *box, [16, 18], InterpolationMode.BICUBIC, antialias=True
        )
        tolerance = 2.5 / 255 / STD[0]
        torch.testing.assert_close(out[row], normalized(expected), rtol=0, atol=tolerance)


def test_a_padded_crop_shows_its_place() -> None:
    stored = images()
    offsets = integers(KEYS, "padded-crop", 2, below=7)
    out = augment(crop="padded", padding=3, flip=0)(stored, KEYS)
    for row, (top, left) in enumerate(offsets.tolist()):
        expected = TF.crop(TF.pad(stored[row], [3]), top, left, 20, 24)
        torch.testing.assert_close(out[row], normalized(expected), rtol=0, atol=2e-6)
    assert len(offsets.unique()) == 7


@pytest.mark.parametrize("crop", CROPS)
def test_flips_happen_as_often_as_asked(crop: dict[str, Any]) -> None:
    keys = sample_keys(0, 0, torch.arange(2000))
    ramp = torch.arange(8, dtype=torch.uint8).expand(2000, 1, 8, 8) * 20
    whole = {**crop, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "padding": 0}
    out = augment(1, (8, 8), flip=0.3, **whole)(ramp, keys)
    is_flipped = out[:, 0, 0, 0] > out[:, 0, 0, -1]
    assert abs(is_flipped.double().mean() - 0.3) < 0.04
    out = augment(1, (8, 8), flip=0.0, vertical_flip=0.8, **whole)(ramp.mT, keys)
    assert abs((out[:, 0, 0, 0] > out[:, 0, -1, 0]).double().mean() - 0.8) < 0.04


def test_nothing_asked_is_the_plain_image() -> None:
    for stored in (images(), images(height=10, width=50)):
        out = augment(crop="none", flip=0)(stored, KEYS)
        plain = EvalTransform(size=(20, 24), mean=MEAN[:3], std=STD[:3])(stored)
        # evaluation rounds to grey levels, and has finer weights, in both passes
        torch.testing.assert_close(out, plain, rtol=0, atol=2 / 255 / min(STD))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("settings", VIEWS.values(), ids=VIEWS)
def test_a_sample_becomes_the_same_bits_in_any_company(
    channels: int, settings: dict[str, Any]
) -> None:
    stored = images(channels, 23, 24)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for crop in CROPS:
        transform = augment(channels, (21, 20), **crop, **settings)
        whole = transform(stored, KEYS)
        assert whole.shape == (40, channels, 21, 20)
        assert whole.dtype == torch.float32
        assert bool(whole.isfinite().all()), f"{crop}"
        assert torch.equal(transform(stored[order], KEYS[order]), whole[order]), f"{crop}"
        for part in (slice(0, 1), slice(3, 10), slice(11, 40)):
            assert torch.equal(transform(stored[part], KEYS[part]), whole[part]), f"{crop}"


@pytest.mark.parametrize("size", [(64, 64), (148, 150)])
@pytest.mark.parametrize("crop", CROPS)
def test_the_number_of_threads_changes_nothing(
    crop: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "PART_NUMBERS", 1 << 18)  # several parts for each thread
    transform, threads = augment(size=size, **crop, **EVERYTHING), torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(transform(images(), KEYS))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("crop", CROPS)
def test_the_stored_images_are_not_changed(crop: dict[str, Any]) -> None:
    stored = images()
    augment(**crop, **EVERYTHING)(stored, KEYS)
    assert torch.equal(stored, images())


def test_a_view_is_made_in_the_order_of_torchvision() -> None:
    """Each step by itself, after the crop of another `TrainTransform` without any."""
    size, fill = (20, 24), torch.tensor([round(255 * mean) for mean in MEAN[:3]]).float()
    policies: list[Policy] = [AutoAugment("cifar10"), ColorJitter((0.4, 0.4, 0.4, 0.1), 0.8)]
    policies += [Greyscale(0.2), Blur(0.5)]
    cropped = augment(crop="padded")(images(), KEYS)
    scale, shift = torch.tensor(STD[:3]).view(3, 1, 1), torch.tensor(MEAN[:3]).view(3, 1, 1)
    levels = ((cropped * scale + shift) * 255).round().to(torch.uint8)
    for policy in policies:
        apply_layers(levels, policy.draw(KEYS, size), fill)
    expected = Cutout(8)(normalized(levels), KEYS)
    out = augment(crop="padded", **VIEWS["contrasted"])(images(), KEYS)
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)


def test_two_epochs_and_two_views_differ() -> None:
    transform, indices = augment(**EVERYTHING), torch.arange(40)
    first = transform(images(), sample_keys(0, 0, indices))
    for keys in (sample_keys(0, 1, indices), sample_keys(0, 0, indices, view=1)):
        same = (transform(images(), keys) == first).flatten(1).all(dim=1)
        assert same.sum() == 0


def test_the_augmentations_of_a_sample_are_independent() -> None:
    keys = sample_keys(0, 0, torch.arange(20_000))
    names = ("flip", "crop", "crop-place", "padded-crop", "erase", "erase-box", "rand-augment-0")
    of_colours = ("color-jitter", "color-jitter-order", "color-jitter-whether", "greyscale")
    others = ("auto-augment", "auto-augment-layers", "blur", "blur-sigma", "cutout")
    streams = (*names, *of_colours, *others)
    draws = torch.cat([uniform(keys, name, 2) for name in streams], dim=1).double()
    correlations = torch.corrcoef(draws.T) - torch.eye(draws.shape[1])
    assert correlations.abs().max() < 5 / 20_000**0.5


def test_empty_parts_of_a_batch_stay_empty() -> None:
    out = augment(**EVERYTHING)(images()[:0], KEYS[:0])
    assert out.shape == (0, 3, 20, 24)


def test_a_policy_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="rand_augment"):
        augment(rand_augment="magic")
    with pytest.raises(UsageError, match="rand-m99"):
        augment(rand_augment="rand-m99")


def test_a_key_that_no_view_has_is_refused() -> None:
    with pytest.raises(ValueError, match="flop"):
        augment(flop=0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("settings", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("crop", CROPS)
def test_an_accelerator_shows_the_same_images(
    crop: dict[str, Any], settings: dict[str, Any]
) -> None:
    here = augment(**crop, **settings)(images(), KEYS)
    there = augment(**crop, **settings)(images().cuda(), KEYS).cpu()
    # a warp may put a pixel on the other side of a grey level or of the border
    assert ((here - there).abs() > 1.1 / 255 / min(STD)).double().mean() < 0.001


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
