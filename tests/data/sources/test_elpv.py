"""ELPV from a miniature replica of its package: the original's files, a hundredth of its images."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrellis.data.sources import Source, load_source
from vitrellis.errors import UsageError, VitrellisError

ORIGINAL = {
    ("0.0", "mono"): 588,
    ("0.0", "poly"): 920,
    ("0.3333333333333333", "mono"): 117,
    ("0.3333333333333333", "poly"): 178,
    ("0.6666666666666666", "mono"): 56,
    ("0.6666666666666666", "poly"): 50,
    ("1.0", "mono"): 313,
    ("1.0", "poly"): 402,
}
"""How many images the original has of each probability and kind."""
FOUR = ("functional", "possibly defective", "likely defective", "defective")


def write(folder: Path, divisor: int = 12) -> Path:
    (folder / "images").mkdir(parents=True)
    rows = [key for key, count in ORIGINAL.items() for _ in range(count // divisor)]
    np.random.default_rng(0).shuffle(rows)
    lines = []
    for number, (probability, kind) in enumerate(rows, start=1):
        name = f"images/cell{number:04}.png"
        Image.new("L", (6, 6), int(200 * float(probability)) + len(kind)).save(folder / name)
        lines.append(f"{name}  {probability:<20}{kind}\n")
    (folder / "labels.csv").write_text("".join(lines))
    return folder


def load(root: Path | None, classes: int = 2) -> Source:
    return load_source("elpv", root, args={"classes": classes})


def test_four_classes_are_the_probabilities(tmp_path: Path) -> None:
    source = load(write(tmp_path / "data"), 4)
    assert source.class_names == FOUR
    assert source.channels == 1
    for split in source.splits.values():
        pixels = torch.tensor([int(split.images[n][0, 0, 0]) for n in range(len(split))])
        assert ((pixels - 4) * 3 / 200).round().long().tolist() == split.labels.tolist()


def test_two_classes_are_their_halves_of_the_same_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    two, four = load(folder), load(folder, 4)
    assert two.class_names == ("functional", "defective")
    for name in ("train", "test"):
        assert (four.splits[name].labels // 2).equal(two.splits[name].labels)
        first, second = two.splits[name].images, four.splits[name].images
        assert [first.name(n) for n in range(len(first))] == [
            second.name(n) for n in range(len(second))
        ]
    assert load_source("elpv", folder).class_names == two.class_names


def test_a_quarter_of_each_kind_is_tested_on_and_never_trained_on(tmp_path: Path) -> None:
    source = load(write(tmp_path / "data"), 4)
    assert source.test is not None
    total = len(source.train) + len(source.test)
    assert len(source.test) == pytest.approx(total / 4, abs=0.5)
    for label in range(4):
        tested = int((source.test.labels == label).sum())
        share = tested / (tested + int((source.train.labels == label).sum()))
        assert share == pytest.approx(0.25, abs=0.1)
    names = [
        {split.images.name(n) for n in range(len(split))} for split in (source.train, source.test)
    ]
    assert names[0].isdisjoint(names[1])
    assert len(names[0] | names[1]) == total


def test_the_installed_package_is_found_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elpv_dataset"
    write(package / "data", divisor=40)
    (package / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert load(None).fingerprint() == load(package / "data").fingerprint()
    assert "elpv_dataset" not in sys.modules


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VitrellisError, match=r"pip install 'vitrellis\[solar\]'"):
        load(None)


@pytest.mark.parametrize("classes", [3, 0, "four", True, 2.5, [2]])
def test_other_numbers_of_classes(tmp_path: Path, classes: object) -> None:
    with pytest.raises(UsageError, match=r"data\.args\.classes: .* 2 classes .* or 4"):
        load_source("elpv", tmp_path, args={"classes": classes})


@pytest.mark.parametrize(
    "line",
    [
        "images/cell0001.png 0.5 mono",
        "a.png 0.0 thin",
        "a.png mono",
        "a.png x mono",
        "a.png nan mono",
    ],
)
def test_lines_that_are_no_labels(tmp_path: Path, line: str) -> None:
    folder = write(tmp_path / "data", divisor=40)
    with (folder / "labels.csv").open("a") as file:
        file.write(f"\n{line}\n")
    count = sum(number // 40 for number in ORIGINAL.values())
    with pytest.raises(VitrellisError, match=rf"labels\.csv: line {count + 2} is "):
        load(folder)


def test_files_that_are_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", divisor=40)
    (folder / "images" / "cell0003.png").unlink()
    with pytest.raises(VitrellisError, match=r"cell0003\.png: no such file"):
        load(folder)
    (folder / "labels.csv").unlink()
    with pytest.raises(VitrellisError, match=r"has no labels\.csv\. It should hold"):
        load(folder)
