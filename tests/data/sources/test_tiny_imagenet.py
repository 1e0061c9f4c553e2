"""Tiny ImageNet from a replica with three classes, in the original's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import load_source
from vitrellis.errors import VitrellisError

WNIDS = {"n02124075": 10, "n01443537": 20, "n02002724": 30}
WORDS = """n00001740\tentity
n01443537\tgoldfish, Carassius auratus
n02124075\tcrane
n02002724\tcrane, Grus
"""


def write(parent: Path) -> Path:
    folder = parent / "tiny-imagenet-200"
    annotations = []
    for number, (wnid, shade) in enumerate(WNIDS.items()):
        for image in range(3):
            mode = "L" if image == 2 else "RGB"  # some are grey
            name = f"train/{wnid}/images/{wnid}_{image}.JPEG"
            write_image(folder / name, shade, size=(64, 64), mode=mode)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        write_image(folder / f"val/images/val_{number}.JPEG", shade, size=(64, 64))
        annotations.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    write_image(folder / "test/images/test_0.JPEG", 0, size=(64, 64))
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text(WORDS)
    return folder


def test_val_is_the_test_split_and_classes_are_in_sorted_order(tmp_path: Path) -> None:
    source = load_source("tiny-imagenet", write(tmp_path))
    assert source.class_names == ("goldfish", "crane (n02002724)", "crane (n02124075)")
    assert list(source.splits) == ["train", "test"]
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert shades(source.train) == [20] * 3 + [30] * 3 + [10] * 3
    assert source.test is not None
    assert source.test.labels.tolist() == [2, 0, 1]
    assert shades(source.test) == [10, 20, 30]
    assert (source.channels, source.train.images.size) == (3, (64, 64))


def test_the_root_may_be_the_folder_or_its_parent(tmp_path: Path) -> None:
    folder = write(tmp_path)
    first, second = (load_source("tiny-imagenet", root) for root in (folder, tmp_path))
    assert first.fingerprint() == second.fingerprint()
    with pytest.raises(VitrellisError, match=r"has no wnids\.txt\. It should hold"):
        load_source("tiny-imagenet", folder / "val")


def test_wrong_annotations(tmp_path: Path) -> None:
    folder = write(tmp_path)
    file = folder / "val" / "val_annotations.txt"
    file.write_text("val_0.JPEG\tn02124075\t0\nval_1.JPEG\tn99\t0\n")
    with pytest.raises(VitrellisError, match=r"val_annotations\.txt: line 2 is .* WordNet number"):
        load_source("tiny-imagenet", folder)
    file.write_text("val_7.JPEG\tn02124075\t0\n")
    with pytest.raises(VitrellisError, match=r"val_7\.JPEG: no such file"):
        load_source("tiny-imagenet", folder)
    file.unlink()
    with pytest.raises(VitrellisError, match=r"val_annotations\.txt: no such file"):
        load_source("tiny-imagenet", folder)


@pytest.mark.parametrize("name", ["../../secret", "n1\0"])
def test_numbers_that_are_no_names_of_folders(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path)
    (folder / "wnids.txt").write_text(f"n02124075\n{name}\n")
    with pytest.raises(VitrellisError, match=r"wnids\.txt: names .* outside"):
        load_source("tiny-imagenet", folder)
