"""Crops of photographs, compared with torchvision's and timm's own transforms of image files."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from tests.data.rows_first import assert_alike, by_pillow
from vitrellis.data.augmentation.crops import CropAndFlip, CropKeys, crop_boxes
from vitrellis.data.augmentation.cutting import Cutter
from vitrellis.data.augmentation.resampling import Interpolation
from vitrellis.data.canvas import Fit
from vitrellis.data.pillow_resize import interleaved
from vitrellis.data.randomness import sample_keys

SIZE = (24, 32)
DECILES = np.arange(0.1, 1, 0.1)
SIZES = [(90, 120), (120, 90), (400, 533), (31, 300), (300, 31), (8, 10), (1, 1), (2, 77), (24, 32)]
DRAWS = 4000
KEYS = sample_keys(3, 1, torch.arange(DRAWS))


def photograph(channels: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    coarse = torch.rand(1, channels, 7, 9, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0]
    return (smooth + 40 * torch.randn(channels, *size, generator=generator)).clamp(0, 255).byte()


def as_file(image: Tensor) -> Image.Image:
    """As Pillow opens it."""
    return TF.to_pil_image(image)


def cutter(size: tuple[int, int] = SIZE, fit: Fit = "squash", **keys: object) -> Cutter:
    return Cutter(CropAndFlip(CropKeys.model_validate(keys), size, fit))


def cut_all(image: Tensor, mine: Cutter, keys: Tensor) -> tuple[list[Tensor], Tensor]:
    """Views of one image, and their boxes."""
    sizes = torch.tensor([image.shape[-2:]]).expand(len(keys), 2)
    plan = mine.plan(keys, sizes)
    out = torch.zeros(len(keys), image.shape[0], *mine.size, dtype=torch.uint8)
    for what, view in zip(plan, out, strict=True):
        mine.cut(image, what, view)
    return list(out), mine.geometry.boxes(keys, sizes)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crops_are_those_of_torchvision_and_pillow(
    size: tuple[int, int], channels: int, interpolation: Interpolation
) -> None:
    """Those of torchvision's transform of tensors to the bit, of image files to a grey level."""
    image = photograph(channels, size)
    mine, kernel = cutter(interpolation=interpolation, flip=0), InterpolationMode(interpolation)
    views, boxes = cut_all(image, mine, KEYS[:12])
    faster, _ = cut_all(interleaved(image), mine, KEYS[:12])
    of_files = [by_pillow(image, box, SIZE, interpolation) for box in boxes.tolist()]
    assert_alike(torch.stack(views), torch.stack(of_files))
    for view, other, box in zip(views, faster, boxes.tolist(), strict=True):
        of_tensor = TF.resized_crop(image, *box, list(SIZE), kernel, antialias=True)
        assert torch.equal(view, of_tensor)
        assert torch.equal(other, view)


def test_any_number_of_channels_can_be_cut() -> None:
    image, mine = photograph(5, (50, 70)), cutter()
    views, _ = cut_all(image, mine, KEYS[:5])
    for channel in range(5):
        alone, _ = cut_all(image[channel : channel + 1], mine, KEYS[:5])
        assert torch.equal(torch.stack(views)[:, channel : channel + 1], torch.stack(alone))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crops_are_those_of_timm(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """To a grey level; to the bit the same boxes, which the comparison with Pillow shows."""
    image = photograph(3, size)
    views, boxes = cut_all(image, cutter(flip=0), KEYS[:6])
    theirs = RandomResizedCropAndInterpolation(SIZE, interpolation="bicubic")
    for view, box in zip(views, boxes.tolist(), strict=True):
        monkeypatch.setattr(theirs, "get_params", lambda *_, b=tuple(box): b)
        off = view.int() - TF.pil_to_tensor(theirs(as_file(image))).int()
        # Pillow 13 may resize columns first, and then clips other overshoots
        assert off.abs().double().mean() <= 0.5


def test_flips_are_those_of_torchvision() -> None:
    image = photograph(3, (90, 120))
    straight, _ = cut_all(image, cutter(flip=0), KEYS[:40])
    mine = cutter(flip=0.5, vertical_flip=0.5)
    flipped, _ = cut_all(image, mine, KEYS[:40])
    flips = mine.geometry.flips(KEYS[:40])
    assert len(flips.unique(dim=0)) == 4
    for view, other, (flip_x, flip_y) in zip(straight, flipped, flips.tolist(), strict=True):
        expected = TF.horizontal_flip(view) if flip_x else view
        expected = TF.vertical_flip(expected) if flip_y else expected
        assert torch.equal(other, expected)


def drawn_by_torchvision(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> npt.NDArray[np.float64]:
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    boxes = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(DRAWS)]
    return np.array(boxes, float)


def statistics(boxes: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    top, left, height, width = boxes.T
    return {"top": top, "left": left, "area": height * width, "aspect": np.log(width / height)}


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.6, 1.0)], ids=str)
@pytest.mark.parametrize("size", [(400, 533), (300, 110), (48, 48)], ids=str)
def test_boxes_in_mixed_company_are_drawn_as_torchvision_draws_them(
    size: tuple[int, int], scale: tuple[float, float]
) -> None:
    """Every second image of a batch has this size; the others have another one."""
    ratio = (3 / 4, 4 / 3)
    keys = sample_keys(5, 0, torch.arange(2 * DRAWS))
    sizes = torch.tensor([size, (17, 90)]).repeat(DRAWS, 1)
    mine = crop_boxes(keys, sizes, scale, ratio)[::2].double().numpy()
    theirs = drawn_by_torchvision(size, scale, ratio)
    for name, values in statistics(mine).items():
        assert stats.ks_2samp(values, statistics(theirs)[name]).pvalue > 1e-4, name


@pytest.mark.parametrize("size", [(300, 110), (60, 300)], ids=str)
def test_as_many_boxes_as_torchvisions_fit_nowhere(size: tuple[int, int]) -> None:
    """Then it takes the largest centred box, which a drawn one almost never equals."""
    scale, ratio = (0.5, 1.0), (3 / 4, 4 / 3)
    sizes = torch.tensor([size]).expand(DRAWS, 2)
    mine = crop_boxes(KEYS, sizes, scale, ratio).numpy()
    theirs = drawn_by_torchvision(size, scale, ratio)
    height, width = size
    sides = (
        (round(width / ratio[0]), width) if height > width else (height, round(height * ratio[1]))
    )
    middle = [(height - sides[0]) // 2, (width - sides[1]) // 2, *sides]
    shares = [float((boxes == middle).all(axis=1).mean()) for boxes in (mine, theirs)]
    assert 0.05 < shares[1] <= 1
    spread = math.sqrt(2 * shares[1] * (1 - shares[1]) / DRAWS)
    assert abs(shares[0] - shares[1]) <= 5 * spread + 1e-9


def test_a_box_depends_on_its_own_key_and_size_alone() -> None:
    sizes = torch.randint(1, 500, (64, 2), generator=torch.Generator().manual_seed(0))
    together = crop_boxes(KEYS[:64], sizes, (0.08, 1.0), (3 / 4, 4 / 3))
    for row in range(64):
        alone = crop_boxes(KEYS[row : row + 1], sizes[row : row + 1], (0.08, 1.0), (3 / 4, 4 / 3))
        assert torch.equal(alone[0], together[row])
        uniform = crop_boxes(
            KEYS[row : row + 1], tuple(sizes[row].tolist()), (0.08, 1.0), (3 / 4, 4 / 3)
        )
        assert torch.equal(uniform, alone)


@pytest.mark.parametrize("size", [(400, 533), (300, 110), (60, 300)], ids=str)
def test_ratios_may_be_of_the_image(size: tuple[int, int]) -> None:
    """Such boxes are torchvision's boxes of a square with as many pixels, stretched."""
    scale, ratio = (0.3, 1.0), (0.75, 4 / 3)
    sizes = torch.tensor([size]).expand(DRAWS, 2)
    boxes = crop_boxes(KEYS, sizes, scale, ratio, "image").double().numpy()
    side = 1000
    square = drawn_by_torchvision((side, side), scale, ratio)
    for number in range(4):
        stretched = square[:, number] * size[number % 2] / side
        # a pixel more or less is the rounding of the smaller image
        jitter = np.random.default_rng(0).uniform(-0.5, 0.5, (2, DRAWS))
        pair = boxes[:, number] + jitter[0], stretched + jitter[1]
        assert np.abs(np.quantile(pair[0], DECILES) - np.quantile(pair[1], DECILES)).max() <= (
            0.04 * size[number % 2] + 1
        )


@pytest.mark.parametrize(("fit", "is_relative"), [("squash", True), ("crop", False)])
def test_crops_are_squashed_where_evaluation_squashes(fit: Fit, is_relative: bool) -> None:
    """Of a wide photograph, the whole one is a crop only where its shape does not matter."""
    mine = cutter(fit=fit, ratio_of="fit", scale=(1.0, 1.0), ratio=(1.0, 1.0))
    (box,) = mine.geometry.boxes(KEYS[:1], torch.tensor([[40, 200]])).tolist()
    assert box == ([0, 0, 40, 200] if is_relative else [0, 80, 40, 40])
    as_published = cutter(fit=fit, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    (box,) = as_published.geometry.boxes(KEYS[:1], torch.tensor([[40, 200]])).tolist()
    assert box == [0, 80, 40, 40]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_whole_images_are_squashed_in_one_step(size: tuple[int, int]) -> None:
    image = photograph(3, size)
    views, _ = cut_all(image, cutter(crop="none", interpolation="bilinear"), KEYS[:2])
    theirs = by_pillow(image, [0, 0, *size], SIZE, "bilinear")
    assert_alike(torch.stack(views), torch.stack([theirs] * 2))


@pytest.mark.parametrize(
    ("own", "box"),
    [((90, 120), (0, 0, 90, 120)), ((90, 90), (11, 0, 68, 90)), ((60, 200), (0, 60, 60, 80))],
)
def test_of_whole_images_the_middle_is_cut_where_the_recipe_says_so(
    own: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    """The largest part of the model's shape, 24 to 32 pixels."""
    geometry = cutter(fit="crop", crop="padded").geometry
    boxes = geometry.boxes(KEYS[:3], torch.tensor([own]))
    assert boxes.tolist() == [list(box)] * 3
