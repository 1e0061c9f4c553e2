"""ImageNet's class folders and DomainNet's lists, as replicas of a few images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError

WNIDS = ("n01440764", "n01443537")


def imagenet(root: Path) -> Path:
    for number, wnid in enumerate(WNIDS):
        write_image(root / f"train/{wnid}/{wnid}_1.JPEG", 100 + 50 * number)
        write_image(root / f"train/{wnid}/{wnid}_2.JPEG", 100 + 50 * number)
        write_image(root / f"val/{wnid}/ILSVRC2012_val_0000000{number}.JPEG", 100 + 50 * number)
    return root


@pytest.mark.parametrize(("args", "splits"), [({}, "test"), ({"val_is": "val"}, "val")])
def test_the_use_of_val_is_said(tmp_path: Path, args: dict[str, str], splits: str) -> None:
    source = load_source("imagenet", imagenet(tmp_path), args=args)
    assert list(source.splits) == ["train", splits]
    assert source.class_names == WNIDS
    assert shades(source.train) == [100, 100, 150, 150]
    assert source.splits[splits].labels.tolist() == [0, 1]


def test_names_of_synsets(tmp_path: Path) -> None:
    lines = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"
    (imagenet(tmp_path) / "LOC_synset_mapping.txt").write_text(lines)
    assert load_source("imagenet", tmp_path).class_names == ("tench", "goldfish")


def test_validation_images_that_were_not_sorted(tmp_path: Path) -> None:
    write_image(imagenet(tmp_path) / "flat/val/ILSVRC2012_val_00000001.JPEG", 100)
    (tmp_path / "flat/train").symlink_to(tmp_path / "train")
    with pytest.raises(VitrellisError, match=r"val: holds 1 images and no folders; sort its"):
        load_source("imagenet", tmp_path / "flat")
    with pytest.raises(VitrellisError, match=r"train: no such folder"):
        load_source("imagenet", tmp_path / "train")
    with pytest.raises(UsageError, match="val_is: is 'validation'; test or val is meant"):
        load_source("imagenet", tmp_path, args={"val_is": "validation"})


def test_val_of_any_folder_can_be_the_test_split(tmp_path: Path) -> None:
    imagenet(tmp_path)
    assert list(load_source("folder", tmp_path).splits) == ["train", "val"]
    source = load_source("folder", tmp_path, args={"val_is": "test"})
    assert list(source.splits) == ["train", "test"]
    write_image(tmp_path / f"test/{WNIDS[0]}/1.JPEG", 100)
    with pytest.raises(UsageError, match="val_is=test: needs val/ and no test/"):
        load_source("folder", tmp_path, args={"val_is": "test"})


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Validation"])
def test_names_of_the_validation_folder(tmp_path: Path, name: str) -> None:
    imagenet(tmp_path)
    (tmp_path / "val").rename(tmp_path / name)
    assert list(load_source("folder", tmp_path).splits) == ["train", "val"]


def test_a_copy_of_flowers_from_kaggle_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrellis.data.sources import folder

    imagenet(tmp_path)
    assert load_source("folder", tmp_path).notes == ()
    # the real copy has 8,189 photographs
    note = folder._KNOWN_COPIES[(102, 6552, 818, 819)]
    monkeypatch.setitem(folder._KNOWN_COPIES, (2, 4, 2), note)
    assert "they do not compare" in load_source("folder", tmp_path).notes[0]


def test_domainnet(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for number in range(count):
            path = f"sketch/{'ab'[number % 2]}_kind/sketch_{split}_{number}.jpg"
            write_image(tmp_path / path, 100 + 50 * (number % 2))
            lines.append(f"{path} {number % 2}\n")
        (tmp_path / f"sketch_{split}.txt").write_text("".join(lines))
    source = load_source("domainnet", tmp_path, args={"domain": "sketch"})
    assert source.class_names == ("a_kind", "b_kind")
    assert shades(source.train) == [100, 150, 100, 150]
    assert "4 train, 2 test images, and the published splits have 48,212 train" in source.notes[0]
    with pytest.raises(UsageError, match="domain: not given; DomainNet has clipart"):
        load_source("domainnet", tmp_path)
    with pytest.raises(UsageError, match=r"'scetch'. Did you mean 'sketch'?"):
        load_source("domainnet", tmp_path, args={"domain": "scetch"})


def test_lists_lead_to_no_place_outside_the_root(tmp_path: Path) -> None:
    write_image(tmp_path / "outside.jpg", 100)
    root = imagenet(tmp_path / "root")
    for path in ("../outside.jpg", str(tmp_path / "outside.jpg"), "train/../../outside.jpg"):
        (root / "train.txt").write_text(f"{path} 0\ntrain/{WNIDS[0]}/{WNIDS[0]}_1.JPEG 1\n")
        with pytest.raises(VitrellisError, match=r"train\.txt: names .*, which is outside"):
            load_source("lists", root)
