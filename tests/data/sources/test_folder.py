from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from vitrellis.data.sources import load_source
from vitrellis.data.sources.folder import load_folder
from vitrellis.errors import VitrellisError


def fill(root: Path, *names: str, mode: str = "L") -> None:
    """Images at these paths below `root`, each a little brighter than the one before."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (4, 3), number if mode == "L" else (number, 0, 255)).save(root / name)


def message(root: Path) -> str:
    with pytest.raises(VitrellisError) as caught:
        load_source("folder", root)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1.png", "dog/2.JPG", "cat/3.png", "cat/more/4.bmp")
    source = load_folder(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.class_counts.tolist() == [2, 2]
    assert (source.val, source.test, source.channels, source.notes) == (None, None, 1, ())
    assert source.train.images.size == (3, 4)
    first = source.train.images[0]
    assert (int(first[0, 0, 0]), source.train.images.name(0)) == (2, str(tmp_path / "cat/3.png"))


def test_classes_images_and_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    fill(tmp_path, "10/a.png", "2/b.png", "2/a.png", "Zoo/c.png", "äpfel/x.png", "zoo/d.png")
    ours, theirs = load_folder(tmp_path).train, ImageFolder(str(tmp_path))
    assert load_folder(tmp_path).class_names == tuple(theirs.classes)
    named = [(ours.images.name(i), int(ours.labels[i])) for i in range(len(ours))]
    assert named == theirs.samples


@pytest.mark.parametrize(("val", "train"), [("val", "train"), ("valid", "train"), ("Val", "Train")])
def test_own_splits(tmp_path: Path, val: str, train: str) -> None:
    fill(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{train}/c/3.png")
    fill(tmp_path, f"{val}/c/4.png", f"{val}/a/4.png", "test/b/5.png")
    source = load_folder(tmp_path)
    assert source.class_names == ("a", "b", "c")
    assert {name: split.labels.tolist() for name, split in source.splits.items()} == {
        "train": [0, 1, 2],
        "val": [0, 2],
        "test": [1],
    }


def test_validation_and_test_folders_are_optional(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png")
    assert list(load_folder(tmp_path).splits) == ["train"]
    fill(tmp_path, "test/a/1.png")
    (tmp_path / "test/b").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.xml").touch()
    assert list(load_folder(tmp_path).splits) == ["train", "test"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, "bus/1.png", "train/2.png", "test/3.png")
    assert load_folder(tmp_path).class_names == ("bus", "test", "train")


def test_colour_anywhere_makes_all_splits_coloured(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png")
    fill(tmp_path, "test/a/1.png", mode="RGB")
    source = load_folder(tmp_path)
    assert source.channels == 3
    assert source.train.images[0].shape == (3, 3, 4)
    assert load_folder(tmp_path, channels=1).train.images[0].shape == (1, 3, 4)
    grey = load_folder(tmp_path, channels=1).test
    assert grey is not None
    assert set(grey.images[0].flatten().tolist()) == {29}


def test_arrays_with_many_channels(tmp_path: Path) -> None:
    for name in ("a/1.npy", "b/2.npy"):
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, np.zeros((4, 5, 6), dtype=np.uint8))
    assert load_folder(tmp_path).train.images[1].shape == (6, 4, 5)
    fill(tmp_path, "b/1.png", mode="RGB")
    assert "2.npy has 6" in message(tmp_path) or "1.npy has 6" in message(tmp_path)


def test_a_class_with_one_image_stays(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    assert load_folder(tmp_path).class_counts.tolist() == [2, 1]


def test_other_files_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/2.png")
    for name in ("a/notes.txt", "b/boxes.csv", "readme.md", "a/Thumbs.db", "b/.DS_Store"):
        (tmp_path / name).touch()
    (note,) = load_folder(tmp_path).notes
    assert note.startswith("files that are not images were left out: 2,")
    assert "notes.txt" in note


def test_accents_are_the_same_however_they_are_stored(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    fill(tmp_path, f"train/{composed}/1.png", "train/b/2.png", f"test/{decomposed}/1.png")
    assert load_folder(tmp_path).class_names == ("b", composed)
    fill(tmp_path, f"train/{decomposed}/1.png")
    assert "holds two folders named 'é'" in message(tmp_path)


def test_an_empty_class_is_named_with_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "void").mkdir()
    assert "class 'void' is an empty folder. Add at least one image, or remove" in message(tmp_path)
    (tmp_path / "void/notes.txt").touch()
    (tmp_path / "void2").mkdir()
    assert "class 'void' holds no image among its files (1) (and 1 more like it)" in message(
        tmp_path
    )


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "val/c/3.png")
    assert "val: has class 'c', of which the training split has no folder" in message(tmp_path)
    (tmp_path / "train/c").mkdir()
    assert "train: class 'c' is an empty folder" in message(tmp_path)


def test_images_outside_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, "1.png", "2.png")
    assert "images lie directly in it (2, the first is 1.png)" in message(tmp_path)
    fill(tmp_path, "a/1.png", "b/1.png")
    assert "images lie directly in it (2," in message(tmp_path)


def test_images_directly_in_a_split(tmp_path: Path) -> None:
    fill(tmp_path, "train/1.png", "test/2.png")
    assert "train: holds no class folders. Put its images into" in message(tmp_path)
    fill(tmp_path / "other", "train/a/1.png", "train/b/1.png", "test/1.png")
    assert "test: images lie directly in it (1," in message(tmp_path / "other")
    assert "move it away" in message(tmp_path / "other")


def test_a_set_nested_once(tmp_path: Path) -> None:
    fill(tmp_path, "flowers/rose/1.png", "flowers/tulip/2.png")
    assert f"set data.root={tmp_path / 'flowers'}" in message(tmp_path)
    assert "a single folder, flowers/, which holds rose, tulip" in message(tmp_path)
    fill(tmp_path / "other", "train/images/a/1.png", "train/images/b/1.png")
    assert f"move them up into {tmp_path / 'other/train'}" in message(tmp_path / "other")


def test_nothing_to_tell_apart(tmp_path: Path) -> None:
    assert "holds no folders. It should hold one folder of images per class" in message(tmp_path)
    fill(tmp_path, "only/1.png")
    assert "a single class, 'only'" in message(tmp_path)


def test_splits_under_other_names(tmp_path: Path) -> None:
    fill(tmp_path, "training/a/1.png", "training/b/1.png", "testing/a/1.png")
    assert (
        "no train/. Splits are called train, val (or valid, validation, dev) and test"
        in message(tmp_path)
    )


def test_splits_that_contradict_each_other(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/1.png")
    assert "holds both val/ and valid/" in message(tmp_path)
    fill(tmp_path / "other", "train/a/1.png", "train/b/1.png", "extra/1.png")
    assert "images in extra/ too" in message(tmp_path / "other")


def test_an_empty_split(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png")
    (tmp_path / "val").mkdir()
    assert "val: holds no folders" in message(tmp_path)
    (tmp_path / "val/a").mkdir()
    assert "val: has no images in its class folders" in message(tmp_path)


def test_a_text_file_named_png_is_found_at_once(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b/text.png").write_text("hello")
    assert f"{tmp_path / 'b/text.png'}: is not an image" in message(tmp_path)


def test_a_cut_off_jpeg_is_named_when_it_is_needed(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    whole = (tmp_path / "b/2.jpg").read_bytes()
    (tmp_path / "b/2.jpg").write_bytes(whole[:-3])
    images = load_folder(tmp_path).train.images
    with pytest.raises(VitrellisError, match=r"2\.jpg: is damaged"):
        images[1]
    assert torch.equal(images[0], torch.zeros(1, 3, 4, dtype=torch.uint8))


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no such folder" in message(tmp_path / "gone")
    with pytest.raises(VitrellisError, match=r"source 'folder' needs data\.root"):
        load_folder(None)
