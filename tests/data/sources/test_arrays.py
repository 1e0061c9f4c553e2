"""Arrays of images, and MedMNIST's archives, written by NumPy and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError

COUNTS = {"train": 6, "val": 2, "test": 4}


def pixels(count: int, *shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(count).integers(0, 256, (count, *shape)).astype(np.uint8)


def archive(*shape: int) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for split, count in COUNTS.items():
        arrays[f"{split}_images"] = pixels(count, *shape)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    return arrays


@pytest.mark.parametrize(
    ("shape", "axes"), [((9, 7), None), ((9, 7, 3), (2, 0, 1)), ((3, 9, 7), (0, 1, 2))]
)
@pytest.mark.parametrize("form", ["npz", "npy"])
def test_every_pixel_of_every_split(
    tmp_path: Path, form: str, shape: tuple[int, ...], axes: tuple[int, ...] | None
) -> None:
    arrays = archive(*shape)
    if form == "npz":
        np.savez(tmp_path / "set.npz", **arrays)
    else:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    source = load_source("arrays", tmp_path)
    assert {split: len(part) for split, part in source.splits.items()} == COUNTS
    for split, part in source.splits.items():
        assert part.images.size == (9, 7)
        assert part.labels.tolist() == arrays[f"{split}_labels"][:, 0].tolist()
        for number, image in enumerate(arrays[f"{split}_images"]):
            expected = image[None] if axes is None else image.transpose(axes)
            assert torch.equal(part.images[number], torch.from_numpy(expected.copy()))


def test_large_arrays_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", pixels(8, 5, 5))
    np.save(tmp_path / "labels.npy", np.arange(8) % 2)
    images = load_source("arrays", tmp_path).train.images
    assert isinstance(images.array, np.memmap)  # type: ignore[attr-defined]


def test_keras_names_class_names_and_grey_made_colour(tmp_path: Path) -> None:
    np.savez(tmp_path / "k.npz", x_train=pixels(4, 5, 5), y_train=np.array([0, 1, 1, 0]))
    (tmp_path / "classes.txt").write_text("no\nyes\n")
    source = load_source("arrays", tmp_path / "k.npz", channels=3)
    assert source.class_names == ("no", "yes")
    assert source.train.images[2].shape == (3, 5, 5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "it holds a"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.zeros(2, int)}, "images are uint8"),
        ({"images": pixels(2, 3, 4, 3), "labels": np.zeros(2, int)}, "not clear where the chann"),
        ({"images": pixels(2, 4, 4, 5), "labels": np.zeros(2, int)}, "not clear where the chann"),
        ({"images": pixels(2, 4), "labels": np.zeros(2, int)}, "has shape"),
        ({"images": pixels(2, 4, 4), "labels": np.zeros((2, 14), int)}, "has 14 columns"),
        ({"images": pixels(2, 4, 4), "labels": np.zeros(2)}, "labels are whole numbers"),
        ({"images": pixels(2, 4, 4), "labels": np.zeros(3, int)}, "one per image"),
        ({"images": pixels(2, 4, 4), "labels": np.array([{}, {}])}, "labels cannot be read"),
    ],
)
def test_arrays_that_are_wrong(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(VitrellisError, match=message):
        load_source("arrays", tmp_path)


def test_where_the_channels_are_can_be_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=pixels(4, 3, 4, 3), labels=np.array([0, 1, 0, 1]))
    for place, size in (("first", (4, 3)), ("last", (3, 4))):
        source = load_source("arrays", tmp_path, args={"channels_at": place})
        assert source.train.images.size == size


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"PK no archive")
    with pytest.raises(VitrellisError, match=r"set\.npz: is no \.npz archive, or damaged"):
        load_source("arrays", tmp_path)
    (tmp_path / "set.npz").unlink()
    (tmp_path / "images.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "labels.npy").write_bytes(b"")
    with pytest.raises(VitrellisError, match=r"images\.npy: is no \.npy file, or damaged"):
        load_source("arrays", tmp_path)


@pytest.mark.parametrize(
    "header",
    ["{'descr': '|u1', 'fortran_order': False, 'shape': (4", "{'descr': \u00b6", "9" * 400],
)
def test_headers_that_are_damaged(tmp_path: Path, header: str) -> None:
    """What numpy's parser of headers raises on damage is SyntaxError, OverflowError and others."""
    np.save(tmp_path / "labels.npy", np.arange(4) % 2)
    np.save(tmp_path / "images.npy", pixels(4, 5, 5))
    content = (tmp_path / "images.npy").read_bytes()
    changed = header.encode("latin1").ljust(118)[:118]
    (tmp_path / "images.npy").write_bytes(content[:10] + changed + content[128:])
    with pytest.raises(VitrellisError, match=r"images\.npy: is no \.npy file, or damaged"):
        load_source("arrays", tmp_path)
    shape = content[:128].replace(b"(4, 5, 5)", b"(9" + b"9" * 25 + b",)", 1)[:128]
    (tmp_path / "images.npy").write_bytes(shape + content[128:])
    with pytest.raises(VitrellisError, match=r"images\.npy: is no \.npy file, or damaged"):
        load_source("arrays", tmp_path)


def test_a_class_number_that_no_set_has(tmp_path: Path) -> None:
    """Names for three thousand million classes would not fit into memory."""
    labels = np.array([0, 1, 3_000_000_000, 1])
    np.savez(tmp_path / "set.npz", images=pixels(4, 5, 5), labels=labels)
    with pytest.raises(VitrellisError, match="has the class number 3,000,000,000, with 4 images"):
        load_source("arrays", tmp_path)


def test_medmnist(tmp_path: Path) -> None:
    np.savez(tmp_path / "breastmnist.npz", **archive(28, 28))
    np.savez(tmp_path / "breastmnist_64.npz", **archive(64, 64))
    with pytest.raises(UsageError, match=r"holds breastmnist\.npz, breastmnist_64\.npz"):
        load_source("medmnist", tmp_path)
    source = load_source("medmnist", tmp_path, args={"size": 64})
    assert source.class_names == ("malignant", "normal, benign")
    assert source.train.images.size == (64, 64)
    assert "the published splits have 546 train, 78 val, 156 test" in source.notes[0]
    with pytest.raises(UsageError, match=r"'breastmnit'. Did you mean 'breastmnist'?"):
        load_source("medmnist", tmp_path, args={"name": "breastmnit"})


def test_the_official_splits_of_medmnist_need_no_note(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    for split, count in {"train": 546, "val": 78, "test": 156}.items():
        arrays[f"{split}_images"] = np.zeros((count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    assert load_source("medmnist", tmp_path / "breastmnist.npz").notes == ()
