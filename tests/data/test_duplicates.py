"""Equal images in several splits or classes, made on purpose, are counted and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.cli.command import run_here
from vitrellis.data.duplicates import find_duplicates, is_cut_from_training
from vitrellis.data.sources import from_tensors
from vitrellis.data.sources.folder import load_folder
from vitrellis.data.splits import prepare


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(path)  # of equal lengths, or nearly so


def folder(root: Path) -> Path:
    """Four test images, of which three are training images; one of these has another label."""
    for number in range(6):
        image(root / "train" / "ab"[number % 2] / f"{number}.bmp", number)
    image(root / "test" / "a" / "new.bmp", 99)
    for original, copy in (("a/0", "a/0"), ("a/2", "a/two"), ("b/1", "a/one")):
        (root / "test" / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "train" / f"{original}.bmp", root / "test" / f"{copy}.bmp")
    image(root / "test" / "b" / "other.bmp", 98)
    return root


def test_files_of_two_splits_and_two_labels(tmp_path: Path) -> None:
    found = find_duplicates(load_folder(folder(tmp_path)))
    assert found.shared == {"train/test": 3}
    assert found.two_labels == 1
    first, second = found.examples["labels"]
    assert first == f"{tmp_path / 'train/b/1.bmp'} (train, b)"
    assert second == f"{tmp_path / 'test/a/one.bmp'} (test, a)"
    shared, labels = found.notes(val_was_cut=False)
    assert shared.startswith("test images that are train images, too: 3, such as ")
    assert labels.startswith("images with more than one label: 1, such as ")


def test_different_images_are_not_named(tmp_path: Path) -> None:
    for number in range(6):
        image(tmp_path / "ab"[number % 2] / f"{number}.bmp", number)
    found = find_duplicates(load_folder(tmp_path))
    assert (found.shared, found.two_labels, found.notes(val_was_cut=True)) == ({}, 0, ())


def test_a_random_split_that_tells_copies_apart() -> None:
    """Each image is there twice, so some of a random tenth have their copy in training."""
    pixels = torch.arange(40, dtype=torch.uint8).repeat_interleave(2).view(80, 1, 1, 1)
    labels = torch.arange(80) // 2 % 2
    source = from_tensors(pixels.expand(80, 1, 4, 4).contiguous(), labels)
    cut = prepare(source, train_size=None, val_fraction=0.25, seed=0)
    assert cut.val is not None
    train = {int(cut.train.images[i][0, 0, 0]) for i in range(len(cut.train))}
    expected = sum(int(cut.val.images[i][0, 0, 0]) in train for i in range(len(cut.val)))
    found = find_duplicates(cut)
    assert found.shared == {"train/val": expected}
    assert expected > 0
    assert is_cut_from_training(cut)
    (note,) = found.notes(val_was_cut=True)
    assert "the data holds them twice" in note
    named = from_tensors(pixels.expand(80, 1, 4, 4).contiguous(), labels, val=(pixels, labels))
    assert not is_cut_from_training(named)


def test_training_says_it_and_keeps_it(tmp_path: Path) -> None:
    words = [f"data.root={folder(tmp_path / 'photos')}", "data.val_fraction=0", "training.epochs=1"]
    words += ["input.img_size=28", "schedule.warmup_epochs=0", "model.name=vit_micro_patch7_28"]
    ended = run_here("train", "photos-alone", *words, "--out", str(tmp_path / "run"))
    said = " ".join((ended.out + ended.err).split())
    assert "test images that are train images, too: 3" in said
    kept = json.loads((tmp_path / "run" / "data.json").read_text())["duplicates"]
    assert kept["shared"] == {"train/test": 3}
    assert kept["two_labels"] == 1
