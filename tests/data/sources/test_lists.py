"""Text lists: replicas of ImageNet-LT, iNaturalist-2018 and DomainNet, and lists of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError


def write(root: Path, lists: dict[str, list[tuple[str, int]]], folder: Path | None = None) -> Path:
    """Lists, and the images that they name, each as grey as its class number says."""
    for file, rows in lists.items():
        for path, label in rows:
            write_image(root / path, 10 * label + 50)
        text = "".join(f"{path} {label}\n" for path, label in rows)
        target = (folder or root) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


def own(root: Path) -> Path:
    """Three classes, whose folders are not called as they are numbered."""
    rows = [("b/1 of 2.jpg", 0), ("a/1.jpg", 2), ("c/1.jpg", 1), ("b/2.jpg", 0)]
    return write(root, {"train.txt": rows, "test.txt": [("a/2.jpg", 2)]})


def test_class_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    source = load_source("lists", own(tmp_path))
    assert source.train.labels.tolist() == [0, 2, 1, 0]
    assert source.class_names == ("b", "c", "a")
    assert list(source.splits) == ["train", "test"]
    assert shades(source.train) == [50, 70, 60, 50]
    assert source.train.images.name(0) == str(tmp_path / "b/1 of 2.jpg")


def test_names_can_be_given(tmp_path: Path) -> None:
    (own(tmp_path) / "classes.txt").write_text("bee\ncat\nape\n")
    assert load_source("lists", tmp_path).class_names == ("bee", "cat", "ape")
    (tmp_path / "classes.txt").write_text("bee\ncat\n")
    with pytest.raises(VitrellisError, match=r"classes\.txt: has 2 names, and class .* up to 2"):
        load_source("lists", tmp_path)


def test_classes_without_a_folder_of_their_own_are_called_by_number(tmp_path: Path) -> None:
    rows = [("all/1.jpg", 0), ("all/2.jpg", 1)]
    source = load_source("lists", write(tmp_path, {"train.txt": rows}))
    assert source.class_names == ("0", "1")
    assert list(source.splits) == ["train"]


def test_imagenet_lt(tmp_path: Path) -> None:
    train = [(f"train/n0{k}/n0{k}_{n}.JPEG", k) for k in range(3) for n in range(4 - k)]
    lists = {
        "ImageNet_LT_train.txt": train,
        "ImageNet_LT_val.txt": [(f"train/n0{k}/n0{k}_9.JPEG", k) for k in range(3)],
        "ImageNet_LT_test.txt": [(f"val/n0{k}/ILSVRC2012_val_{k}.JPEG", k) for k in range(3)],
    }
    write(tmp_path / "images", lists, tmp_path / "lists")
    arguments = {"lists": str(tmp_path / "lists")}
    source = load_source("imagenet-lt", tmp_path / "images", args=arguments)
    assert source.name == "imagenet-lt"
    assert source.class_names == ("n00", "n01", "n02")
    assert source.class_counts.tolist() == [4, 3, 2]
    assert list(source.splits) == ["train", "val", "test"]
    with pytest.raises(VitrellisError, match=r"ImageNet_LT_train\.txt: no such file"):
        load_source("imagenet-lt", tmp_path / "images")


def test_inaturalist_2018_is_tested_on_its_validation_images(tmp_path: Path) -> None:
    folder = "train_val2018/Plantae"
    lists = {
        "iNaturalist18_train.txt": [(f"{folder}/{k}/{n}a.jpg", k) for k in (1, 0) for n in (1, 2)],
        "iNaturalist18_val.txt": [(f"{folder}/{k}/b.jpg", k) for k in (0, 1)],
    }
    source = load_source("inaturalist-2018", write(tmp_path, lists))
    assert source.class_names == ("0", "1")
    assert source.train.labels.tolist() == [1, 1, 0, 0]
    assert list(source.splits) == ["train", "test"]


def test_domain_net(tmp_path: Path) -> None:
    classes = ["aircraft_carrier", "airplane"]
    for domain in ("clipart", "real"):
        rows = [
            (f"{domain}/{c}/{domain}_{n}.jpg", k) for k, c in enumerate(classes) for n in (1, 2)
        ]
        write(tmp_path, {f"{domain}_train.txt": rows[::2], f"{domain}_test.txt": rows[1::2]})
    source = load_source("lists", tmp_path, args={"domain": "real"})
    assert source.class_names == tuple(classes)
    assert source.train.images.name(1) == str(tmp_path / "real/airplane/real_1.jpg")
    assert list(source.splits) == ["train", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1.jpg\n", r"train\.txt: line 1 is 'a/1\.jpg'; expected a path, a space and a class"),
        ("a/1.jpg 2\na/2.jpg -1\n", "line 2 is"),
        ("a/1.jpg 1.5\n", "line 1 is"),
        ("\n", "names no images"),
        ("a/1.jpg 1\nc/1.jpg 2\n", "class numbers of training images begin at 1"),
        ("b/2.jpg 0\na/1.jpg 2\n", r"has no training image of '1'"),
        ("b/2.jpg 0\nc/1.jpg 1\nb/2.jpg 0\n", r"names b/2\.jpg, which is in train\.txt twice"),
        ("b/2.jpg 0\na/2.jpg 1\n", r"test\.txt: names a/2\.jpg, which is in train\.txt too"),
        ("b/2.jpg 0\nc/1.jpg 1\n", "label 2 in the test split; with 2 classes"),
        (f"b/2.jpg 0\nc/1.jpg {10**30}\n", r"train\.txt: has the class number 1,000,000,000"),
        ("b/2.jpg 0\nc/9.jpg 1\na/1.jpg 2\n", r"c/9\.jpg: no such file"),
    ],
)
def test_mistakes_in_a_list(tmp_path: Path, text: str, message: str) -> None:
    (own(tmp_path) / "train.txt").write_text(text)
    with pytest.raises(VitrellisError, match=message):
        load_source("lists", tmp_path)


def test_a_folder_of_lists_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.args\.lists: no such folder: .*gone"):
        load_source("lists", tmp_path, args={"lists": str(tmp_path / "gone")})


def test_nothing_is_decoded_when_a_set_is_opened(tmp_path: Path) -> None:
    own(tmp_path)
    (tmp_path / "a" / "1.jpg").write_text("not an image")
    source = load_source("lists", tmp_path)
    with pytest.raises(VitrellisError, match=r"a/1\.jpg: is not an image"):
        source.train.images[1]
