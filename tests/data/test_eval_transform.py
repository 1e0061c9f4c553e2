"""Evaluation's pixels beside those of timm's own transform, which resizes by Pillow."""

from __future__ import annotations

from typing import Any

import pytest
import timm.data
import torch
from PIL import Image
from torch import Tensor

from vitrellis.data.canvas import Canvas
from vitrellis.data.eval_transform import CropMode, EvalTransform
from vitrellis.data.source import TensorImages

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = [(32, 32), (28, 28), (400, 300), (300, 401), (37, 19), (1, 9), (224, 224), (61, 256)]


def transform(
    size: tuple[int, int], channels: int, crop_mode: CropMode, **settings: Any
) -> EvalTransform:
    return EvalTransform(
        size=size, mean=MEAN[:channels], std=STD[:channels], crop_mode=crop_mode, **settings
    )


def picture(channels: int, shape: tuple[int, int]) -> Tensor:
    """Noise, which no two ways of resizing agree on by chance, on a ramp."""
    noise = torch.randint(0, 256, (channels, *shape), generator=torch.Generator().manual_seed(1))
    ramp = torch.linspace(0, 255, shape[1]).expand(channels, *shape)
    return ((noise + ramp) / 2).to(torch.uint8)


def of_timm(image: Tensor, ours: EvalTransform) -> Tensor:
    """The normalised tensor that timm makes of an image, told what we write in `config.json`."""
    channels, settings = len(image), ours.resize_and_crop
    config = timm.data.resolve_data_config(
        pretrained_cfg={
            "input_size": (channels, *settings.size),
            "interpolation": settings.interpolation,
            "crop_pct": settings.crop_pct,
            "crop_mode": settings.crop_mode,
            "mean": MEAN[:channels],
            "std": STD[:channels],
        }
    )
    pixels = image.permute(1, 2, 0).numpy()
    theirs: Tensor = timm.data.create_transform(**config)(
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    )
    return theirs


def levels(normalized: Tensor) -> Tensor:
    channels = len(normalized)
    mean, std = (torch.tensor(values[:channels]).view(-1, 1, 1) for values in (MEAN, STD))
    return ((normalized * std + mean) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "crop_pct"), [((32, 32), 1.0), ((48, 48), 0.875), ((40, 64), 1.0), ((64, 40), 0.9)]
)
def test_pixels_are_timms(
    crop_mode: CropMode,
    interpolation: str,
    channels: int,
    size: tuple[int, int],
    crop_pct: float,
) -> None:
    ours = transform(size, channels, crop_mode, interpolation=interpolation, crop_pct=crop_pct)
    for shape in SHAPES:
        if shape == (1, 9) and crop_mode == "border":
            continue  # timm asks Pillow for a height of 0
        image = picture(channels, shape)
        expected = of_timm(image, ours)
        assert torch.equal(ours.resize_and_crop(image), levels(expected)), shape
        assert torch.equal(ours.resize_and_crop.batch(image[None])[0], levels(expected)), shape
        torch.testing.assert_close(ours([image])[0], expected, rtol=0, atol=2e-6)


def test_a_line_gets_a_border() -> None:
    ours = transform((32, 32), 1, "border")
    shown = ours.resize_and_crop(torch.full((1, 1, 200), 9, dtype=torch.uint8))
    assert (shown[0, :, 0] == 9).sum() == 1
    assert (shown[0, :, 0] == round(255 * MEAN[0])).sum() == 31


def test_resize_to_256_crop_224() -> None:
    """Against Pillow, in the words of the published code."""
    image = picture(3, (333, 500))
    small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        (int(256 * 500 / 333), 256), Image.Resampling.BICUBIC
    )
    cut = small.crop((80, 16, 304, 240))
    assert small.size == (384, 256)
    ours = transform((224, 224), 3, "center", crop_pct=0.875)
    shown = ours.resize_and_crop(image).permute(1, 2, 0)
    assert shown.numpy().tobytes() == cut.tobytes()


@pytest.mark.parametrize("shape", [(2, 60_000), (60_000, 2)])
def test_a_panorama_costs_no_more_than_its_middle(shape: tuple[int, int]) -> None:
    image = torch.zeros(1, *shape, dtype=torch.uint8)
    image[..., 29_990:30_010] = 200
    image[:, 29_990:30_010] = 200
    shown = transform((256, 256), 1, "center").resize_and_crop(image)  # whole: 256 x 7,680,000
    assert shown.shape == (1, 256, 256)
    assert bool((shown == 200).all())


def test_the_middle_of_a_long_image_is_timms_to_a_grey_level() -> None:
    ours = transform((32, 32), 1, "center")
    image = picture(1, (9, 640))  # resized, it is 71 times as large as the result
    difference = ours.resize_and_crop(image).int() - levels(of_timm(image, ours)).int()
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 0.01


@pytest.mark.parametrize("shape", [(8, 8), (40, 16), (32, 32), (33, 32), (20, 60)])
@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_images_are_stored_small_and_seen_alike(
    shape: tuple[int, int], crop_mode: CropMode
) -> None:
    ours = transform((32, 32), 3, crop_mode, crop_pct=0.9)
    images = TensorImages(torch.stack([picture(3, shape), picture(3, shape).flip(2)]))
    stored, finish = ours.stored(images)
    is_small = shape in {(8, 8), (32, 32)} or (shape == (40, 16) and crop_mode == "center")
    assert stored.size == (shape if is_small else (32, 32))
    assert isinstance(stored, Canvas) == is_small
    batch = torch.stack([stored(images[i]) for i in range(2)])
    assert torch.equal(finish(batch), ours([images[0], images[1]]))
