from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vitrellis.data.augmentation import resampling
from vitrellis.data.augmentation.resampling import (
    Interpolation,
    cached_parts,
    crop_resize,
    padded_crop,
    replace_rows,
    resize_matrices,
)

MODES: dict[Interpolation, InterpolationMode] = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def boxes(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    sides = torch.rand(batch, 2, generator=generator) * torch.tensor([height, width])
    sides = sides.floor() + 1
    room = torch.tensor([height, width]) - sides
    places = (torch.rand(batch, 2, generator=generator) * (room + 1)).floor()
    return torch.cat([places, sides], dim=1).long()


def booleans(batch: int, seed: int) -> Tensor:
    return torch.rand(batch, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 32, 32), (32, 32)),
        ((3, 32, 32), (96, 64)),
        ((1, 40, 50), (24, 28)),
        ((5, 100, 80), (16, 20)),
        ((3, 70, 66), (60, 60)),
    ],
)
def test_crop_and_resize_is_that_of_torchvision(
    interpolation: Interpolation, shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    stored, cut = images(16, *shape), boxes(16, *shape[1:])
    mine = crop_resize(stored, cut, size, interpolation, dtype=torch.uint8)
    theirs = torch.stack(
        [
            TF.resized_crop(image, *box.tolist(), list(size), MODES[interpolation], antialias=True)
            for image, box in zip(stored, cut, strict=True)
        ]
    )
    difference = (mine.int() - theirs.int()).abs()
    # noise is the hardest image; a cubic kernel can turn a level in the first pass into two
    assert difference.max() <= (1 if interpolation == "bilinear" else 2)
    assert (difference > 0).double().mean() < 0.02


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 300, 210), (1, 300, 500)])
def test_a_large_crop_is_that_of_torchvision_to_the_bit(
    interpolation: Interpolation, shape: tuple[int, int, int]
) -> None:
    size = (150, 160) if shape[0] == 3 else (256, 280)
    stored, cut = images(6, *shape), boxes(6, *shape[1:])
    flip_x, flip_y = booleans(6, 0), booleans(6, 1)
    mine = crop_resize(stored, cut, size, interpolation, flip_x, flip_y, dtype=torch.uint8)
    as_floats = crop_resize(stored, cut, size, interpolation, flip_x, flip_y)
    for row, image in enumerate(stored):
        expected = TF.resized_crop(
            image, *cut[row].tolist(), list(size), MODES[interpolation], antialias=True
        )
        expected = TF.horizontal_flip(expected) if flip_x[row] else expected
        expected = TF.vertical_flip(expected) if flip_y[row] else expected
        assert torch.equal(mine[row], expected)
        assert torch.equal(as_floats[row], expected.float())


def test_the_two_ways_differ_by_a_level_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, cut = images(6, 3, 60, 60), boxes(6, 60, 60)
    one_by_one = crop_resize(stored, cut, (150, 150), "bilinear", dtype=torch.uint8)
    monkeypatch.setattr(resampling, "LARGE_RESULT", 1 << 30)
    together = crop_resize(stored, cut, (150, 150), "bilinear", dtype=torch.uint8)
    difference = (one_by_one.int() - together.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 0.02


def test_whole_levels_are_the_rounded_floats() -> None:
    stored, cut = images(8, 3, 32, 32), boxes(8, 32, 32)
    exact = crop_resize(stored, cut, (20, 40), "bicubic")
    assert exact.dtype == torch.float32
    whole = crop_resize(stored, cut, (20, 40), "bicubic", dtype=torch.uint8)
    assert torch.equal((exact + 0.5).floor(), whole.float())


@pytest.mark.parametrize("interpolation", MODES)
def test_resizing_to_the_same_size_changes_nothing(interpolation: Interpolation) -> None:
    stored = images(4, 3, 17, 23)
    whole = torch.tensor([[0, 0, 17, 23]]).expand(4, 4)
    assert torch.equal(crop_resize(stored, whole, (17, 23), interpolation), stored.float())


@pytest.mark.parametrize("interpolation", MODES)
def test_a_flat_image_stays_flat(interpolation: Interpolation) -> None:
    stored = torch.full((4, 1, 90, 90), 255, dtype=torch.uint8)
    for size in ((7, 9), (200, 111)):
        resized = crop_resize(stored, boxes(4, 90, 90), size, interpolation, dtype=torch.uint8)
        assert bool((resized == 255).all())


def test_flips_mirror_the_result() -> None:
    stored, cut = images(12, 3, 32, 32), boxes(12, 32, 32)
    flip_x, flip_y = booleans(12, 0), booleans(12, 1)
    straight = crop_resize(stored, cut, (24, 30), "bicubic")
    mirrored = crop_resize(stored, cut, (24, 30), "bicubic", flip_x, flip_y)
    for row in range(12):
        dims = [d for d, flip in ((2, flip_x), (1, flip_y)) if flip[row]]
        assert torch.equal(mirrored[row], straight[row].flip(dims))


@pytest.mark.parametrize("interpolation", MODES)
def test_an_image_is_resized_to_the_same_bits_in_any_company(
    interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, cut = images(33, 3, 40, 36), boxes(33, 40, 36)
    whole = crop_resize(stored, cut, (32, 32), interpolation)
    singly = [
        crop_resize(stored[i : i + 1], cut[i : i + 1], (32, 32), interpolation) for i in range(33)
    ]
    assert torch.equal(torch.cat(singly), whole)
    monkeypatch.setattr(resampling, "CACHED_NUMBERS", 1)
    assert torch.equal(crop_resize(stored, cut, (32, 32), interpolation), whole)


def test_sums_are_exact_whatever_their_order() -> None:
    rows = resize_matrices(
        torch.tensor([0]), torch.tensor([100]), torch.tensor([False]), 100, 30, "bicubic"
    )
    assert torch.equal(rows * 2**14, (rows * 2**14).round())
    pixels = images(1, 100, 50).float()
    assert torch.equal(rows @ pixels, (rows.double() @ pixels.double()).float())
    assert (rows.sum(dim=2) - 1).abs().max() < 40 * 2.0**-15


def test_padded_crop_is_that_of_torchvision() -> None:
    stored = images(9, 2, 10, 14)
    places = torch.arange(9)
    offsets = torch.stack([places % 7, places * 5 % 7], dim=1)
    flip_x, flip_y = booleans(9, 3), booleans(9, 4)
    mine = padded_crop(stored, offsets, 3, (10, 14), flip_x, flip_y)
    for row, (top, left) in enumerate(offsets.tolist()):
        expected = TF.crop(TF.pad(stored[row], [3]), top, left, 10, 14)
        dims = [d for d, flip in ((2, flip_x), (1, flip_y)) if flip[row]]
        assert torch.equal(mine[row], expected.flip(dims))


@pytest.mark.parametrize("batch", [0, 1, 5, 100])
def test_parts_cover_a_batch_in_order(batch: int) -> None:
    parts = list(cached_parts(batch, 1 << 17, torch.device("cpu")))
    assert [i for part in parts for i in range(batch)[part]] == list(range(batch))
    assert len(list(cached_parts(batch, 1 << 17, torch.device("cuda")))) <= 1


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 5, 7)])
def test_rows_are_replaced(shape: tuple[int, int, int]) -> None:
    stored, rows = images(6, *shape), torch.tensor([4, 0])
    expected = stored.clone()
    expected[rows] = 255 - stored[:2]
    replace_rows(stored, rows, 255 - stored[:2])
    assert torch.equal(stored, expected)
