"""Flowers-102 from a replica with four images of each class, in the original's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError

COUNT = 4 * 102
LABELS = np.random.default_rng(0).permutation(np.arange(COUNT) % 102 + 1)
ORDER = np.argsort(LABELS, kind="stable").reshape(102, 4) + 1
"""`(102, 4)`: the image numbers of each class, from 1."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "flowers"
    for number, label in enumerate(LABELS, start=1):
        write_image(folder / "jpg" / f"image_{number:05}.jpg", 10 * (int(label) % 25))
    savemat(folder / "imagelabels.mat", {"labels": LABELS[None].astype(np.uint8)})
    sets = {"trnid": ORDER[::-1, 0], "valid": ORDER[:, 1], "tstid": ORDER[:, 2:].ravel()}
    savemat(folder / "setid.mat", {k: v[None].astype(np.uint16) for k, v in sets.items()})
    return folder


def test_training_and_validation_images_are_learned_from_as_published(root: Path) -> None:
    source = load_source("flowers102", root)
    assert list(source.splits) == ["train", "test"]
    assert source.class_counts.tolist() == [2] * 102
    assert source.train.images.name(0).endswith(f"jpg/image_{ORDER[101, 0]:05}.jpg")
    for split in source.splits.values():
        assert shades(split) == [10 * ((int(k) + 1) % 25) for k in split.labels]


def test_the_original_three_splits(root: Path) -> None:
    source = load_source("flowers102", root.parent, args={"official_val": True})
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 102,
        "val": 102,
        "test": 204,
    }
    assert source.train.labels.tolist() == list(range(101, -1, -1))
    assert source.val is not None
    assert source.val.labels.tolist() == list(range(102))


def test_classes_have_names(root: Path) -> None:
    names = load_source("flowers102", root).class_names
    assert (names[0], names[101], len(set(names))) == ("pink primrose", "blackberry lily", 102)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": [[1]]}, r"setid\.mat: has no numbers called 'trnid'"),
        ({"trnid": [["a"]]}, r"setid\.mat: has no numbers called 'trnid'"),
        ({"trnid": [[1.5]]}, r"setid\.mat: 'trnid' should be whole numbers"),
        ({"trnid": [[]]}, r"setid\.mat: 'trnid' should be whole numbers"),
        ({"trnid": [[0, 1]]}, r"'trnid' has 0; expected 1 to 408"),
        ({"trnid": [[409]]}, r"'trnid' has 409; expected 1 to 408"),
    ],
)
def test_wrong_contents(root: Path, tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "imagelabels.mat").write_bytes((root / "imagelabels.mat").read_bytes())
    savemat(tmp_path / "setid.mat", content)
    with pytest.raises(VitrellisError, match=message):
        load_source("flowers102", tmp_path)


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match=r"has no setid\.mat\. It should hold jpg/"):
        load_source("flowers102", tmp_path)
    (tmp_path / "setid.mat").touch()
    with pytest.raises(VitrellisError, match=r"imagelabels\.mat: no such file"):
        load_source("flowers102", tmp_path)
    with pytest.raises(UsageError, match=r"data\.args\.official_val: 'no'; should be true or"):
        load_source("flowers102", tmp_path, args={"official_val": "no"})
