from __future__ import annotations

import gzip
import hashlib
import importlib.util
import lzma
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST

from vitrellis.data.sources import Source, TensorImages
from vitrellis.data.sources.fashion_mnist import CLASS_NAMES, PACKAGED, load_fashion_mnist
from vitrellis.errors import VitrellisError

ORIGINALS = Path("/usr/share/datasets/fashion-mnist")
SCRIPT = Path(__file__).parents[3] / "tools" / "make_fashion_mnist_subset.py"
needs_originals = pytest.mark.skipif(
    not ORIGINALS.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def digests(source: Source, split: str) -> list[bytes]:
    images = source.splits[split].images
    return [hashlib.sha256(images[i].numpy().tobytes()).digest() for i in range(len(images))]


def write_folder(folder: Path, suffix: str) -> None:
    """A miniature of the original folder: ten training and ten test images."""
    for part in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
        labels = np.arange(10, dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = header + array.tobytes()
            packed = gzip.compress(content) if suffix else content
            (folder / f"{part}-{kind}-ubyte{suffix}").write_bytes(packed)


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_fashion_mnist_subset", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_packaged_part_is_balanced_and_disjoint() -> None:
    source = load_fashion_mnist(None)
    counts = {name: torch.bincount(split.labels).tolist() for name, split in source.splits.items()}
    assert counts == {"train": [200] * 10, "val": [100] * 10, "test": [400] * 10}
    everything = [digest for name in source.splits for digest in digests(source, name)]
    assert len(set(everything)) == 7000
    assert (source.channels, source.train.images.size) == (1, (28, 28))


def test_the_packaged_part_is_small_and_carries_its_licence() -> None:
    files = [path for path in PACKAGED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert "2017 Zalando SE" in (PACKAGED / "LICENSE").read_text()


def test_class_names_are_those_of_torchvision() -> None:
    assert list(CLASS_NAMES) == FashionMNIST.classes


def test_grey_can_be_repeated() -> None:
    source = load_fashion_mnist(None, channels=3)
    grey = load_fashion_mnist(None, channels=1)
    assert torch.equal(source.train.images[5], grey.train.images[5].repeat(3, 1, 1))
    with pytest.raises(VitrellisError, match="fashion-mnist: has 1 channels where 4"):
        load_fashion_mnist(None, channels=4)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_with_the_four_files(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path, suffix)
    source = load_fashion_mnist(tmp_path)
    assert list(source.splits) == ["train", "test"]
    assert source.class_names == CLASS_NAMES
    assert source.class_counts.tolist() == [1] * 10


def test_a_folder_that_lacks_one(tmp_path: Path) -> None:
    write_folder(tmp_path, ".gz")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(VitrellisError, match=r"has no t10k-labels-idx1-ubyte\. It should hold"):
        load_fashion_mnist(tmp_path)
    with pytest.raises(VitrellisError, match="no such folder"):
        load_fashion_mnist(tmp_path / "gone")


@needs_originals
def test_the_whole_set() -> None:
    source = load_fashion_mnist(ORIGINALS)
    assert source.test is not None
    assert source.class_counts.tolist() == [6000] * 10
    assert torch.bincount(source.test.labels).tolist() == [1000] * 10
    packaged = load_fashion_mnist(None)
    original = {
        name: dict(zip(digests(source, name), source.splits[name].labels.tolist(), strict=True))
        for name in source.splits
    }
    for name, part in packaged.splits.items():
        labels = original["test" if name == "test" else "train"]
        assert [labels[digest] for digest in digests(packaged, name)] == part.labels.tolist()


@needs_originals
def test_the_script_makes_the_packaged_files_again(tmp_path: Path) -> None:
    script().make(ORIGINALS, tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    packaged = {path.name: path.read_bytes() for path in PACKAGED.glob("*.xz")}
    assert set(made) == set(packaged)
    for name, content in made.items():
        unpacked = lzma.decompress(content)
        assert unpacked == lzma.decompress(packaged[name])
        # liblzma may pack better one day; then the files differ, but not from one run to the next
        if content != packaged[name]:
            assert content == lzma.compress(unpacked, preset=9 | lzma.PRESET_EXTREME)


def test_the_script_chooses_disjoint_images_whatever_their_order() -> None:
    images = np.random.default_rng(1).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    labels = np.arange(60, dtype=np.uint8) % 10
    first, second = script().choose(images, labels, (1, 2))
    assert (len(first), len(second), len({*first, *second})) == (10, 20, 30)
    assert np.bincount(labels[second]).tolist() == [2] * 10
    order = np.random.default_rng(2).permutation(60)
    again, _ = script().choose(images[order], labels[order], (1, 2))
    assert sorted(order[again]) == first


def test_images_are_held_as_one_tensor() -> None:
    images = load_fashion_mnist(None).train.images
    assert isinstance(images, TensorImages)
    assert images.tensor.shape == (2000, 1, 28, 28)
