"""Chaoyang from a replica with a dozen patches, in the original's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError


def write(folder: Path) -> Path:
    for split, count in (("train", 8), ("test", 4)):
        rows: list[dict[str, Any]] = []
        for number in range(count):
            label = (3 * number) % 4
            name = f"{split}/353042_4-IMG{number:03}x014-1.JPG"
            write_image(folder / name, 10 * label + 100)
            rows.append({"name": name, "label": label, "label_A": 0, "label_B": 1, "label_C": 2})
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("nested", ["", "chaoyang"])
def test_two_splits_of_four_classes(tmp_path: Path, nested: str) -> None:
    write(tmp_path / nested)
    source = load_source("chaoyang", tmp_path)
    assert source.class_names == ("normal", "serrated", "adenocarcinoma", "adenoma")
    assert source.class_counts.tolist() == [2] * 4
    assert list(source.splits) == ["train", "test"]
    for split in source.splits.values():
        assert shades(split) == [10 * int(label) + 100 for label in split.labels]


def test_the_labels_of_one_pathologist(tmp_path: Path) -> None:
    write(tmp_path)
    source = load_source("chaoyang", tmp_path)
    rows = json.loads((tmp_path / "train.json").read_text())
    for number, row in enumerate(rows):
        row["label_B"] = number % 4
    (tmp_path / "train.json").write_text(json.dumps(rows))
    by_one = load_source("chaoyang", tmp_path, args={"annotator": "B"})
    assert by_one.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert by_one.test is not None
    assert source.test is not None
    assert torch.equal(by_one.test.labels, source.test.labels)  # those that all agreed on
    with pytest.raises(UsageError, match=r"pathologist .*'D'"):
        load_source("chaoyang", tmp_path, args={"annotator": "D"})


def test_numbers_of_images_that_differ_from_the_published_ones(tmp_path: Path) -> None:
    (note,) = load_source("chaoyang", write(tmp_path)).notes
    assert "8 train, 4 test images, and the published splits have 4,021 train, 2,139 test" in note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not JSON, or damaged or cut off"),
        ('{"name": 1}', "its list of images should be a list, and is a dict"),
        (
            '[{"name": "train/a.JPG"}]',
            "item 0 of its list of images should have 'label' of type int",
        ),
        ('[{"name": 3, "label": 1}]', "should have 'name' of type str"),
        ('[{"name": "a.JPG", "label": true}]', "should have 'label' of type int"),
        ("[1]", "should have 'name' of type str; it is 1"),
        ('[{"name": "train/gone.JPG", "label": 1}]', r"gone\.JPG: no such file"),
    ],
)
def test_wrong_contents(tmp_path: Path, content: str, message: str) -> None:
    (write(tmp_path) / "train.json").write_text(content)
    with pytest.raises(VitrellisError, match=message):
        load_source("chaoyang", tmp_path)


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match=r"has no train\.json\. It should hold"):
        load_source("chaoyang", tmp_path)
    (write(tmp_path) / "test.json").unlink()
    with pytest.raises(VitrellisError, match=r"test\.json: no such file"):
        load_source("chaoyang", tmp_path)


def test_a_label_that_is_no_class(tmp_path: Path) -> None:
    write(tmp_path)
    rows = json.loads((tmp_path / "test.json").read_text())
    (tmp_path / "test.json").write_text(json.dumps([rows[0] | {"label": 4}]))
    with pytest.raises(VitrellisError, match=r"test\.json: has label 4; with 4 classes"):
        load_source("chaoyang", tmp_path)


def test_half_a_character_is_no_name(tmp_path: Path) -> None:
    write(tmp_path)
    rows = json.loads((tmp_path / "test.json").read_text())
    (tmp_path / "test.json").write_text(json.dumps([rows[0] | {"name": "test/\ud83d.jpg"}]))
    with pytest.raises(VitrellisError, match=r"test\.json: names 'test/.*outside"):
        load_source("chaoyang", tmp_path)
