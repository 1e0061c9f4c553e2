"""The normalization that is measured on images, and kept for later runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from vitrellis.assembly.normalization import WORTH_KEEPING, Statistics, measured_normalization
from vitrellis.data.canvas import Canvas
from vitrellis.data.source import Split
from vitrellis.data.sources import files, load_source

CANVAS = Canvas((6, 5))


def photos(root: Path, count: int) -> Split:
    """Images of the size of the canvas, of random colours."""
    levels = np.random.default_rng(count).integers(0, 256, (count, *CANVAS.size, 3), np.uint8)
    for number, image in enumerate(levels):
        path = root / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return load_source("folder", root).train


def by_numpy(split: Split) -> Statistics:
    levels = np.concatenate(
        [np.asarray(Image.open(split.images.name(i))).reshape(-1, 3) for i in range(len(split))]
    )
    return (levels / 255).mean(axis=0).tolist(), (levels / 255).std(axis=0).tolist()


def assert_measured(found: Statistics, split: Split) -> None:
    for one, other in zip(found, by_numpy(split), strict=True):
        assert one == pytest.approx(other, rel=1e-6)


@pytest.fixture
def kept_photos(tmp_path: Path) -> Split:
    """Photos whose statistics are in the folder `cache`."""
    split = photos(tmp_path / "photos", WORTH_KEEPING)
    seen: list[tuple[int, int]] = []
    found = measured_normalization(
        split, CANVAS, lambda done, total: seen.append((done, total)), tmp_path / "cache"
    )
    assert seen[-1] == (WORTH_KEEPING, WORTH_KEEPING)
    assert_measured(found, split)
    return split


def test_a_later_run_decodes_nothing(
    tmp_path: Path, kept_photos: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(files, "read_image", refuse)
    again = measured_normalization(kept_photos, CANVAS, None, tmp_path / "cache")
    assert_measured(again, kept_photos)
    with pytest.raises(AssertionError, match="was decoded"):  # at another size they are others
        measured_normalization(kept_photos, Canvas((3, 3)), None, tmp_path / "cache")


def test_another_image_is_noticed(tmp_path: Path, kept_photos: Split) -> None:
    Image.new("RGB", CANVAS.size[::-1], "white").save(kept_photos.images.name(7))
    found = measured_normalization(kept_photos, CANVAS, None, tmp_path / "cache")
    assert_measured(found, kept_photos)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{}",
        '{"mean": [0.5, 0.5], "std": [0.1, 0.1]}',
        '{"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.0]}',
        '{"mean": [0.5, 0.5, NaN], "std": [0.1, 0.1, 0.1]}',
        '{"mean": [0.5, 0.5, 2.5], "std": [0.1, 0.1, 0.1]}',
    ],
)
def test_a_damaged_file_is_no_answer(tmp_path: Path, kept_photos: Split, damage: str) -> None:
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(damage)
    found = measured_normalization(kept_photos, CANVAS, None, tmp_path / "cache")
    assert_measured(found, kept_photos)


def test_few_images_are_not_kept_and_a_folder_that_cannot_be_made_is_done_without(
    tmp_path: Path,
) -> None:
    few = photos(tmp_path / "few", 10)
    assert_measured(measured_normalization(few, CANVAS, None, tmp_path / "cache"), few)
    assert not (tmp_path / "cache").exists()
    (tmp_path / "taken").write_text("")
    many = photos(tmp_path / "many", WORTH_KEEPING)
    assert_measured(measured_normalization(many, CANVAS, None, tmp_path / "taken"), many)
