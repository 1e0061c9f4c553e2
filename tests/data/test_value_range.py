"""16-bit images that use fewer bits: said, and scaled from a range that the recipe names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrellis.assembly.build import build_preprocessing
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, recipe_from


def folder(root: Path, highest: int) -> Path:
    """Two classes of five images of 16 bits, with levels from 0 to `highest`."""
    for number in range(10):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.linspace(0, highest, 64).astype(np.uint16).reshape(8, 8)
        Image.fromarray(levels + number % 2).save(path)
    return root


def recipe(root: Path, **inputs: object) -> Recipe:
    data = {"source": "folder", "root": str(root), "val_fraction": 0.2}
    return recipe_from(
        {
            "data": data | {k: v for k, v in inputs.items() if k == "value_range"},
            "input": {"img_size": 28} | {k: v for k, v in inputs.items() if k != "value_range"},
            "model": {"name": "vit_micro_patch7_28"},
            "schedule": {"warmup_epochs": 0},
            "training": {"epochs": 1},
        }
    )


def test_the_observed_range_is_said(tmp_path: Path) -> None:
    (note,) = build_source(recipe(folder(tmp_path, 4000))).notes
    assert "levels 0 to 4,001" in note
    assert "data.value_range=[0, 4001]" in note
    assert "17 of 256" in note


def test_a_named_range_reaches_every_split_and_prediction(tmp_path: Path) -> None:
    named = recipe(folder(tmp_path, 4094), value_range=[0, 4095])
    source = build_source(named)
    assert source.notes == ()
    for split in source.splits.values():
        assert len(split.images[0].unique()) > 60
    assert build_preprocessing(named, source).value_range == (0, 4095)
    assert source.fingerprint() != build_source(recipe(tmp_path)).fingerprint()


def test_levels_that_are_cut_off_are_said(tmp_path: Path) -> None:
    (note,) = build_source(recipe(folder(tmp_path, 4094), value_range=[0, 255])).notes
    assert "cut off" in note


def test_all_sixteen_bits_need_no_note(tmp_path: Path) -> None:
    assert build_source(recipe(folder(tmp_path, 65000))).notes == ()


def test_a_range_is_for_sixteen_bits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("L", (4, 4), number).save(tmp_path / name / f"{number}.png")
    with pytest.raises(UsageError, match=r"data\.value_range.*256 levels"):
        build_source(recipe(tmp_path, value_range=[0, 4095]))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_converted(tmp_path: Path, channels: int) -> None:
    """`input.channels` makes grey images colour ones, and colour ones grey, as Pillow does."""
    for number in range(6):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels if channels == 1 else pixels[..., 0]).save(path)
    asked = recipe(tmp_path, channels=channels)
    source = build_source(asked)
    assert build_preprocessing(asked, source).channels == channels
    image = source.train.images[0]
    with Image.open(source.train.images.name(0)) as stored:
        expected = np.asarray(stored.convert("L" if channels == 1 else "RGB"))
    assert np.array_equal(image.permute(1, 2, 0).numpy().squeeze(), expected)
