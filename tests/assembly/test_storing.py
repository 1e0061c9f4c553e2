"""How a recipe's training images are stored, and what its loader shows of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.command import run_here
from vitrellis.assembly import build
from vitrellis.assembly.build import (
    Place,
    build_canvas,
    build_preprocessing,
    build_train_loader,
)
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.data import pixel_cache
from vitrellis.data.canvas import Canvas, OwnShape
from vitrellis.data.loader import TrainLoader
from vitrellis.data.pixel_cache import PixelCache
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError
from vitrellis.recipe import Recipe, load_recipe
from vitrellis.runs.exported import Preprocessing

SHAPES = [(60, 90), (90, 60), (200, 40), (20, 30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of smooth photographs of many shapes."""
    random = np.random.default_rng(0)
    for name in ("ash", "fir"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            height, width = SHAPES[number % len(SHAPES)]
            coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            photo = coarse.resize((width, height), Image.Resampling.BICUBIC)
            photo.save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def built(folder: Path, *words: str) -> tuple[Recipe, Source, Preprocessing, TrainLoader]:
    chosen = [f"data.root={folder}", "input.img_size=16", "training.batch_size=4", *words]
    recipe = load_recipe("photos-alone", chosen)
    source = build_source(recipe)
    preprocessing = build_preprocessing(recipe, source)
    place = Place(torch.device("cpu"))
    return recipe, source, preprocessing, build_train_loader(recipe, source, preprocessing, place)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], OwnShape((32, 32))),  # crops of 0.6 to 1 of the area, twice the sides
        (["augmentation.scale=[0.08, 1]"], OwnShape((57, 57))),  # 16 / sqrt(0.08) = 56.6
        (["augmentation.interpolation=bilinear"], OwnShape((32, 32), "bilinear")),
        (["input.canvas=original"], OwnShape(None)),
        (["input.canvas=24"], Canvas((24, 24))),
        (["input.canvas=[24, 30]", "input.fit=crop"], Canvas((24, 30), "crop")),
        (["augmentation.crop=padded"], Canvas((16, 16))),
        (["augmentation.crop=none", "input.fit=crop"], Canvas((16, 16), "crop")),
        (["augmentation.crop=none", "input.canvas=original"], Canvas((16, 16))),
    ],
    ids=str,
)
def test_the_recipe_says_how_photographs_are_stored(
    folder: Path, words: list[str], expected: Canvas | OwnShape
) -> None:
    recipe, source, _, loader = built(folder, *words)
    assert build_canvas(recipe, source) == loader.canvas == expected
    (batch, *_) = loader.epoch(0)
    assert batch.images.shape == (4, 3, 16, 16)


def test_the_smallest_crop_of_both_views_counts(folder: Path) -> None:
    view = "augmentation.second_view={scale: [0.04, 1]}"
    paco = ["objective.paco={}", "objective.cross_entropy.weight=0", "model.name=cifar_resnet8"]
    assert built(folder, view, *paco)[3].canvas == OwnShape((80, 80))
    assert built(folder, "augmentation.crop=none", view, *paco)[3].canvas == OwnShape((80, 80))


def test_the_second_run_finds_its_images_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the seed of its validation split; and sees the same as without a cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "PixelCache", partial(PixelCache, worthwhile=0))
    first = built(folder)[3]
    (kept,) = (tmp_path / "cache/vitrellis/pixels").iterdir()
    before = kept.stat().st_ino
    monkeypatch.setattr(pixel_cache, "write_pixels", None)  # calling it would be an error
    again = built(folder)[3]
    another = built(folder, "seed=1")[3]
    without = built(folder, "machine.image_cache_gb=0")[3]
    assert [loader.is_mapped for loader in (first, again, another, without)] == [True] * 3 + [False]
    assert kept.stat().st_ino == before
    for one, other, third in zip(first.epoch(0), again.epoch(0), without.epoch(0), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.images, third.images)


@pytest.mark.parametrize("words", [["input.cache=false"], ["machine.image_cache_gb=0"], []])
def test_nothing_is_kept_where_the_recipe_or_the_size_forbids_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if words:
        monkeypatch.setattr(build, "PixelCache", partial(PixelCache, worthwhile=0))
    assert not built(folder, *words)[3].is_mapped
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_whole_photographs_are_trained_on_as_they_are_evaluated(folder: Path, fit: str) -> None:
    words = ["augmentation.crop=none", "augmentation.flip=0", f"input.fit={fit}"]
    _, source, preprocessing, loader = built(folder, *words)
    (batch, *_) = loader.epoch(0)
    evaluated = preprocessing.transform()([source.train.images[i] for i in batch.indices.tolist()])
    level = 1 / 255 / min(preprocessing.std)
    # small photographs are enlarged, where half a pixel of the cut counts
    assert (batch.images - evaluated).abs().mean() < 2 * level


def test_photographs_are_normalized_by_what_whole_ones_show(folder: Path) -> None:
    for fit in ("squash", "crop"):
        words = ["augmentation.crop=none", "augmentation.flip=0", f"input.fit={fit}"]
        _, source, cropped, _ = built(folder, f"input.fit={fit}")
        _, _, whole, _ = built(folder, *words)
        assert cropped.mean == whole.mean
        assert cropped.std == whole.std
        pixels = cropped.transform()(list(source.train.images))  # type: ignore[call-overload]
        assert pixels.mean(dim=(0, 2, 3)).abs().max() < 0.02
        assert (pixels.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02


def test_an_unknown_word_for_the_canvas_is_refused() -> None:
    with pytest.raises(UsageError, match=r"input\.canvas: 'orginal'.*'original'"):
        load_recipe("photos-alone", ["input.canvas=orginal"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            [],
            "held in memory, large ones reduced to cover 32 x 32 pixels; squashed as in evaluation",
        ),
        (["input.cache=false"], "read from their files in every epoch"),
        (["input.canvas=original", "augmentation.ratio_of=pixels"], "held in memory"),
    ],
    ids=str,
)
def test_the_summary_says_what_crops_are_cut_from(
    folder: Path, words: list[str], told: str
) -> None:
    quick = ["training.epochs=1", "input.img_size=16", "model.name=cifar_resnet8"]
    quick += ["training.batch_size=4", "machine.workers=1", "schedule.warmup_epochs=0", *words]
    ended = run_here("train", "photos-teacher", "data.root=photos", *quick, cwd=folder.parent)
    printed = " ".join((ended.out + ended.err).split())
    assert "cut from photographs" in printed
    assert told in printed
    assert ("reduced" in printed) == ("input.canvas=original" not in words)
    assert ("squashed as in evaluation" in printed) == ("augmentation.ratio_of=pixels" not in words)
