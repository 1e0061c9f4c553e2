from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from tests.data.rows_first import assert_alike, by_pillow
from vitrellis.data import canvas
from vitrellis.data.augmentation.resampling import Interpolation
from vitrellis.data.canvas import (
    Canvas,
    OnCanvas,
    OwnShape,
    canvas_for,
    fit_in_memory,
    measure_normalization,
    read_stored,
    to_canvas,
)
from vitrellis.data.source import Split, Subset, TensorImages
from vitrellis.errors import VitrellisError


@dataclass(frozen=True)
class Listed:
    """Images of any sizes; None cannot be read."""

    pictures: Sequence[Tensor | None]
    channels: int = 1
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        picture = self.pictures[index]
        if picture is None:
            raise VitrellisError(f"{self.name(index)}: is damaged")
        return picture

    def name(self, index: int) -> str:
        return f"photos/{index}.jpg"

    def fingerprint(self) -> str:
        return ""


def noise(*shape: int) -> Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(
    ("size", "img_size", "smallest", "expected"),
    [
        ((32, 32), (224, 224), 0.08, Canvas((32, 32))),  # small images stay small
        ((36, 36), (32, 32), 0.08, Canvas((36, 36))),
        ((64, 64), (32, 32), 0.08, Canvas((64, 64))),
        ((65, 64), (32, 32), 0.08, OwnShape((114, 114))),  # 32 / sqrt(0.08) = 113.1
        ((300, 300), (64, 64), 0.6, Canvas((128, 128))),  # alike, too, when they are reduced
        ((300, 200), (64, 64), 0.6, OwnShape((128, 128))),
        (None, (224, 224), 0.08, OwnShape((792, 792))),
        (None, (100, 60), 0.5, OwnShape((200, 120))),
        ((36, 36), (32, 32), None, Canvas((36, 36))),  # whole images
        ((38, 32), (32, 32), None, Canvas((32, 32))),
        (None, (100, 60), None, Canvas((100, 60))),
    ],
)
def test_images_are_stored_small_or_with_their_own_shape(
    size: tuple[int, int] | None,
    img_size: tuple[int, int],
    smallest: float | None,
    expected: Canvas | OwnShape,
) -> None:
    assert canvas_for(Listed([], size=size), img_size, smallest=smallest) == expected


def test_images_as_they_are_are_not_reduced() -> None:
    images = Listed([], size=(300, 300))
    assert canvas_for(images, (64, 64), smallest=0.6, reduced=False) == OwnShape(None)
    small = Listed([], size=(64, 64))
    assert canvas_for(small, (32, 32), smallest=0.6, reduced=False) == Canvas((64, 64))


def test_whole_images_of_another_shape_are_cut_in_one_step() -> None:
    """Stored as they are, 36 x 30 pixels would be squashed later."""
    images = Listed([], size=(36, 30))
    assert canvas_for(images, (32, 32), smallest=None, fit="crop") == Canvas((32, 32), "crop")
    assert canvas_for(images, (32, 32), smallest=None, fit="squash") == Canvas((36, 30))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("own", "covered", "expected"),
    [
        ((400, 533), (96, 96), (96, 128)),
        ((533, 400), (96, 96), (128, 96)),
        ((400, 533), (50, 80), (60, 80)),
        ((900, 90), (48, 64), (640, 64)),
        ((64, 900), (64, 64), (64, 900)),  # not larger than that: left alone
        ((40, 30), (64, 64), (40, 30)),
    ],
)
def test_photographs_are_reduced_with_their_own_shape(
    own: tuple[int, int],
    covered: tuple[int, int],
    expected: tuple[int, int],
    interpolation: Interpolation,
) -> None:
    shape = OwnShape(covered, interpolation)
    image = noise(3, *own)
    stored = shape(image)
    assert tuple(stored.shape[-2:]) == shape.size_of(own) == expected
    assert_alike(stored, by_pillow(image, [0, 0, *own], expected, interpolation))


def test_stored_images_can_be_shown_as_images() -> None:
    pictures = Listed([noise(1, 40, 60), noise(1, 20, 20)])
    stored = OnCanvas(pictures, OwnShape((10, 10)))
    assert stored.size is None
    assert [tuple(stored[i].shape) for i in range(2)] == [(1, 10, 15), (1, 10, 10)]
    assert stored.fingerprint() != OnCanvas(pictures, OwnShape((11, 10))).fingerprint()
    assert OnCanvas(Listed([], size=(40, 60)), OwnShape((10, 10))).size == (10, 15)
    assert OnCanvas(pictures, Canvas((5, 6))).size == (5, 6)


@pytest.mark.parametrize("shape", [(3, 40, 60), (1, 300, 20), (2, 9, 9), (1, 1, 1)])
def test_squash_shows_the_whole_image(shape: tuple[int, int, int]) -> None:
    image = noise(*shape)
    expected = TF.resize(image, [24, 30], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(to_canvas(image, (24, 30), "squash"), expected)


@pytest.mark.parametrize("shape", [(3, 40, 60), (1, 60, 40), (2, 12, 15)])
def test_crop_resizes_the_shorter_side_and_cuts_the_middle(shape: tuple[int, int, int]) -> None:
    image = noise(*shape)
    resized = TF.resize(image, [24], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(to_canvas(image, (24, 24), "crop"), TF.center_crop(resized, [24, 24]))


def test_crop_keeps_the_shape_of_things() -> None:
    row, column = torch.arange(-50, 50)[:, None], torch.arange(-80, 80)
    disc = (row.square() + column.square() < 40**2).to(torch.uint8) * 255
    cut = to_canvas(disc[None], (20, 30), "crop")[0] > 127
    assert abs(int(cut.sum(dim=0).max()) - int(cut.sum(dim=1).max())) <= 1


def test_a_panorama_costs_no_more_than_its_middle() -> None:
    image = torch.zeros(1, 2, 60_000, dtype=torch.uint8)
    image[..., 29_990:30_010] = 200
    cut = to_canvas(image, (256, 256), "crop")  # a fully resized one would be 256 x 7,680,000
    assert cut.shape == (1, 256, 256)
    assert bool((cut == 200).all())


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_an_image_of_the_canvass_size_is_left_alone(fit: canvas.Fit) -> None:
    image = noise(3, 24, 24)
    assert torch.equal(to_canvas(image, (24, 24), fit), image)


def test_all_images_are_read_in_order() -> None:
    pictures = [noise(1, 10 + i, 12) for i in range(9)]
    told: list[tuple[int, int]] = []
    read = read_stored(
        Listed(pictures), Canvas((8, 8)), lambda done, total: told.append((done, total))
    )
    expected = torch.stack([to_canvas(picture, (8, 8), "squash") for picture in pictures])
    assert torch.equal(read, expected)
    assert told == [(i, 9) for i in range(1, 10)]


def test_images_in_memory_are_not_copied() -> None:
    images = TensorImages(noise(6, 1, 8, 8))
    assert read_stored(images, Canvas((8, 8))).data_ptr() == images.tensor.data_ptr()
    some = Subset(Subset(images, torch.tensor([5, 3, 1])), torch.tensor([2, 0]))
    assert torch.equal(read_stored(some, Canvas((8, 8))), images.tensor[[1, 5]])


def test_an_image_that_cannot_be_read_is_named() -> None:
    images = Listed([noise(1, 8, 8), None, noise(1, 8, 8)])
    with pytest.raises(VitrellisError, match=r"^photos/1\.jpg: is damaged$"):
        read_stored(images, Canvas((8, 8)))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalization_is_measured_over_all_pixels(channels: int) -> None:
    pixels = noise(700, channels, 5, 6) // torch.arange(1, channels + 1).view(1, -1, 1, 1)
    pixels = pixels.to(torch.uint8)
    split = Split(TensorImages(pixels), torch.zeros(700, dtype=torch.int64))
    mean, std = measure_normalization(split, (5, 6), "squash")
    share = pixels.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), share.mean(dim=(0, 2, 3)))
    expected = share.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(std).double(), expected)


def test_of_many_files_an_even_part_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "MEASURED_IMAGES", 5)
    files = Listed([torch.full((1, 4, 4), i, dtype=torch.uint8) for i in range(100)])
    mean, _ = measure_normalization(
        Split(files, torch.zeros(100, dtype=torch.int64)), (4, 4), "squash"
    )
    assert mean[0] * 255 == pytest.approx((0 + 20 + 40 + 60 + 80) / 5)


def test_images_of_one_colour_can_be_normalized() -> None:
    split = Split(
        TensorImages(torch.full((3, 1, 4, 4), 9, dtype=torch.uint8)), torch.zeros(3).long()
    )
    mean, std = measure_normalization(split, (4, 4), "squash")
    assert mean == [pytest.approx(9 / 255)]
    assert std[0] > 0


def test_what_fits_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu = torch.device("cpu")

    def fit(count: int, height: int, width: int, processes: int = 1) -> bool:
        images = TensorImages(torch.zeros(1, dtype=torch.uint8).expand(count, 3, height, width))
        return fit_in_memory(images, Canvas((height, width)), cpu, processes)

    assert fit(1000, 32, 32)
    assert not fit(10**9, 224, 224)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(canvas, "CONTAINER_LIMIT", limit)
    limit.write_text("max\n")
    assert fit(1000, 32, 32)
    limit.write_text("11000000\n")  # bytes, of which 0.3 are for images
    assert fit(1000, 32, 32)
    assert not fit(1000, 32, 32, processes=2)
    limit.write_text("4000000\n")
    assert not fit(1000, 32, 32)


def test_the_size_of_photographs_is_told_from_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hundred images, half of 10 x 20 and half of 30 x 20 pixels: 40,000 in all."""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(canvas, "CONTAINER_LIMIT", limit)
    photographs = Listed([noise(1, 10 if i < 50 else 30, 20) for i in range(100)])
    for shape, needed in ((OwnShape(), 40_000), (OwnShape((10, 10)), 17_500)):
        for room, fits in ((1.1, True), (0.9, False)):
            limit.write_text(str(int(room * needed / 0.3)))
            assert fit_in_memory(photographs, shape, torch.device("cuda")) == fits
