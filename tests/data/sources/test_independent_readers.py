"""Each layout read by another library from the same files: images, order, labels and pixels.

Datasets of Hugging Face are compared with the library `datasets` in `test_huggingface.py`.
"""

from __future__ import annotations

import gc
import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb as lmdb_library
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from tests.data.sources import tiny_layouts
from tests.data.sources.tiny_layouts import Layout
from vitrellis.data.packing.pack import pack
from vitrellis.data.sources import Source, Split, load_source

pandas = pytest.importorskip("pandas")
webdataset = pytest.importorskip("webdataset")


def ours(layout: Layout) -> Source:
    return load_source(layout.source, layout.root, args=layout.arguments)


def assert_same(split: Split | None, images: Sequence[Any], labels: Sequence[int]) -> None:
    """The split has these Pillow images or arrays `(H, W[, C])`, and these class indices."""
    assert split is not None
    assert split.labels.tolist() == list(map(int, labels))
    assert len(split) == len(images)
    for index, image in enumerate(images):
        expected = torch.from_numpy(np.array(image))
        expected = expected[None] if expected.ndim == 2 else expected.permute(2, 0, 1)
        assert torch.equal(split.images[index], expected), split.images.name(index)


def opened(root: Path, names: Sequence[str]) -> list[Image.Image]:
    return [Image.open(root / name).convert("RGB") for name in names]


@pytest.mark.parametrize("name", ["folder", "imagenet", "tiny_imagenet"])
def test_class_folders_and_torchvision(name: str, tmp_path: Path) -> None:
    layout = tiny_layouts.LAYOUTS[name](tmp_path)
    source = ours(layout)
    root = tmp_path / "tiny-imagenet-200" if name == "tiny_imagenet" else tmp_path

    def theirs(split: str) -> Any:
        # of two lists, theirs has no .gif; a folder of Tiny ImageNet has a text file, too
        return datasets.ImageFolder(root / split, is_valid_file=lambda path: "txt" not in path)

    splits = {"folder": {"train": "train", "val": "val", "test": "test"}}
    splits["imagenet"] = {"train": "train", "test": "val"}
    for split, place in splits.get(name, {"train": "train"}).items():
        read = theirs(place)
        assert_same(source.splits[split], [image for image, _ in read], read.targets)
    if name == "folder":
        assert source.class_names == tuple(theirs("train").classes)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("lists", ""),
        ("imagenet_lt", "ImageNet_LT_"),
        ("inaturalist_lists", "iNaturalist18_"),
        ("domainnet", "clipart_"),
    ],
)
def test_lists_and_pandas(name: str, prefix: str, tmp_path: Path) -> None:
    source = ours(tiny_layouts.LAYOUTS[name](tmp_path))
    for split, part in source.splits.items():
        word = "val" if (name, split) == ("inaturalist_lists", "test") else split
        rows = pandas.read_csv(tmp_path / f"{prefix}{word}.txt", sep=" ", header=None)
        assert_same(part, opened(tmp_path, rows[0]), rows[1])


@pytest.mark.parametrize("form", ["csv", "json_lines", "parquet"])
def test_tables_and_pandas(form: str, tmp_path: Path) -> None:
    source = ours(tiny_layouts.LAYOUTS[f"table_{form}"](tmp_path))
    rows = {
        "csv": lambda: pandas.read_csv(tmp_path / "table.csv"),
        "json_lines": lambda: pandas.read_json(tmp_path / "table.jsonl", lines=True),
        "parquet": lambda: pandas.read_parquet(tmp_path / "table.parquet"),
    }[form]()
    assert source.class_names == tuple(sorted(rows["label"].unique()))
    for split, part in source.splits.items():
        chosen = rows[rows["split"] == split]
        codes = pandas.Categorical(chosen["label"], categories=sorted(rows["label"].unique())).codes
        assert_same(part, opened(tmp_path, chosen["path"]), codes)


@pytest.mark.parametrize("name", ["npz", "npy", "medmnist"])
def test_arrays_and_numpy(name: str, tmp_path: Path) -> None:
    source = ours(tiny_layouts.LAYOUTS[name](tmp_path))
    archive = next(tmp_path.glob("*.npz"), None)
    assert set(source.splits) == {"train", "val", "test"}
    for split, part in source.splits.items():
        images, labels = (
            np.load(tmp_path / f"{split}_{kind}.npy")
            if archive is None
            else np.load(archive)[f"{split}_{kind}"]
            for kind in ("images", "labels")
        )
        assert_same(part, images, labels.ravel())


@pytest.mark.parametrize("name", ["cifar10", "cifar100_archive"])
def test_cifar_and_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ours(tiny_layouts.LAYOUTS[name](tmp_path))
    if name == "cifar100_archive":
        with tarfile.open(tmp_path / "cifar-100-python.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    for split, is_train in {"train": True, "test": False}.items():
        read = kind(tmp_path, train=is_train)
        assert source.class_names == tuple(read.classes)
        assert_same(source.splits[split], read.data, read.targets)


def test_flowers102_and_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers-102").mkdir()
    layout = tiny_layouts.flowers102(tmp_path / "flowers-102")
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)
    for split, part in ours(layout).splits.items():
        read = datasets.Flowers102(tmp_path, split)
        images, labels = zip(*read, strict=True)
        assert_same(part, images, labels)
    both = load_source("flowers102", tmp_path)
    assert both.train.labels.tolist() == [
        label
        for split in ("train", "val")
        for label in datasets.Flowers102(tmp_path, split)._labels
    ]


def test_fashion_mnist_and_torchvision(tmp_path: Path) -> None:
    source = ours(tiny_layouts.fashion_mnist(tmp_path))
    images = read_image_file(str(tmp_path / "t10k-images-idx3-ubyte"))
    labels = read_label_file(str(tmp_path / "t10k-labels-idx1-ubyte"))
    assert_same(source.test, images.numpy(), labels.tolist())


def test_inaturalist_and_pandas(tmp_path: Path) -> None:
    source = ours(tiny_layouts.inaturalist(tmp_path))
    for split, file in {"train": "train2018.json", "test": "val2018.json"}.items():
        content = json.loads((tmp_path / file).read_text())
        rows = pandas.DataFrame(content["images"]).merge(
            pandas.DataFrame(content["annotations"]), left_on="id", right_on="image_id"
        )
        assert_same(source.splits[split], opened(tmp_path, rows["file_name"]), rows["category_id"])


def test_chaoyang_and_pandas(tmp_path: Path) -> None:
    source = ours(tiny_layouts.chaoyang(tmp_path))
    for split, column in {"train": "label_A", "test": "label"}.items():
        rows = pandas.read_json(tmp_path / f"{split}.json")
        assert_same(source.splits[split], opened(tmp_path, rows["name"]), rows[column])


def test_elpv_and_numpy(tmp_path: Path) -> None:
    """The table is read by numpy as the package elpv-dataset reads it."""
    source = ours(tiny_layouts.elpv(tmp_path))
    kinds = np.dtype([("path", "U40"), ("probability", "f8"), ("type", "U4")])
    rows = np.genfromtxt(tmp_path / "labels.csv", dtype=kinds, encoding="utf-8")
    expected = {
        (tmp_path / row["path"]): (np.array(Image.open(tmp_path / row["path"])), row["probability"])
        for row in rows
    }
    for part in source.splits.values():
        for index, label in enumerate(part.labels.tolist()):
            pixels, probability = expected.pop(Path(part.images.name(index)))
            assert (probability > 0.5) == label
            assert torch.equal(part.images[index][0], torch.from_numpy(pixels))
    assert not expected


def samples(root: Path, split: str) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """The images and labels of shards, read by the library webdataset."""
    urls = [str(path) for path in sorted(root.glob(f"{split}-*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        content = next(value for key, value in sample.items() if key in _SUFFIXES)
        label = int(sample["cls"]) if "cls" in sample else json.loads(sample["json"])["label"]
        yield np.array(Image.open(io.BytesIO(content)).convert("RGB")), label


_SUFFIXES = ("png", "jpg", "bmp", "gif", "webp", "tif")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # its files open
@pytest.mark.parametrize("name", ["shards", "packed_shards"])
def test_shards_and_webdataset(name: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    layout = tiny_layouts.LAYOUTS[name](tmp_path / "set")
    for split, part in ours(layout).splits.items():
        images, labels = zip(*samples(layout.root, split), strict=True)
        assert_same(part, images, labels)
    gc.collect()  # here, where the warning is ignored, and not in a later test


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_shards_of_images_without_names_and_webdataset(tmp_path: Path) -> None:
    """The rows of an Arrow file have no names; their members are called after their formats."""
    (tmp_path / "set").mkdir()
    source = ours(tiny_layouts.saved_dataset(tmp_path / "set"))
    pack(source, tmp_path / "packed", form="tar")
    for split, part in source.splits.items():
        images, labels = zip(*samples(tmp_path / "packed", split), strict=True)
        assert_same(part, images, labels)
    gc.collect()


def test_the_packed_file_and_lmdb(tmp_path: Path) -> None:
    """The files in the database are those of the folder, byte for byte, in its order."""
    (tmp_path / "set").mkdir()
    source = ours(tiny_layouts.lmdb(tmp_path / "set"))
    copy = shutil.copy(tmp_path / "set/set.lmdb", tmp_path)  # a file can be open once a process
    with (
        lmdb_library.open(str(copy), subdir=False, readonly=True, lock=False) as file,
        file.begin() as transaction,
    ):
        stored = {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}
    for split, part in source.splits.items():
        read = datasets.ImageFolder(tmp_path / "set-lmdb" / split, is_valid_file=lambda path: True)
        keys = sorted(key for key in stored if key.startswith(f"{split}/"))
        assert [stored[key] for key in keys] == [
            Path(path).read_bytes() for path, _ in read.samples
        ]
        assert_same(
            part, [Image.open(io.BytesIO(stored[key])).convert("RGB") for key in keys], read.targets
        )
