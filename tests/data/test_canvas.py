from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from vitrellis.data import canvas
from vitrellis.data.canvas import (
    Canvas,
    canvas_for,
    fits_in_memory,
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
    ("size", "img_size", "expected"),
    [
        ((32, 32), (224, 224), (32, 32)),  # small images stay small
        ((36, 36), (32, 32), (36, 36)),  # just within the margin
        ((38, 32), (32, 32), (37, 37)),
        ((64, 64), (32, 32), (37, 37)),
        (None, (224, 224), (258, 258)),
        (None, (100, 60), (115, 69)),
    ],
)
def test_the_canvas_is_the_images_own_size_unless_they_are_larger(
    size: tuple[int, int] | None, img_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert canvas_for(Listed([], size=size), img_size) == expected


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
    assert fits_in_memory(1000, 3, (32, 32), cpu)
    assert not fits_in_memory(10**9, 3, (224, 224), cpu)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(canvas, "CONTAINER_LIMIT", limit)
    limit.write_text("max\n")
    assert fits_in_memory(1000, 3, (32, 32), cpu)
    limit.write_text("4000000\n")
    assert not fits_in_memory(1000, 3, (32, 32), cpu)
