from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vitrellis.data.formats.idx import read_idx, read_idx_split
from vitrellis.errors import VitrellisError

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_plain_and_compressed_files(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(PACK[suffix](idx(PIXELS)))
    assert np.array_equal(read_idx(tmp_path / f"x{suffix}", dimensions=3), PIXELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file"),
        (b"\x89PNG\r\n", "is not an idx file of unsigned bytes: it begins with '89 50 4e 47'"),
        (b"\0\0\x0d\x03" + idx(PIXELS)[4:], "is not an idx file of unsigned bytes"),
        (idx(PIXELS[0]), "has 2 dimensions; expected 3"),
        (idx(PIXELS)[:9], "ends within its header"),
        (idx(PIXELS)[:-1], r"its header says \(2, 3, 4\), 24 bytes, but 23 follow"),
        (idx(PIXELS) + b"\0", r".* 24 bytes, but 25 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", r".* bytes, but 3 follow"),
    ],
)
def test_what_a_file_says_must_be_so(tmp_path: Path, content: bytes, message: str) -> None:
    for suffix, packed in (("", content), (".gz", gzip.compress(content))):
        (tmp_path / f"bad{suffix}").write_bytes(packed)
        with pytest.raises(VitrellisError, match=rf"bad{suffix}: {message}"):
            read_idx(tmp_path / f"bad{suffix}", dimensions=3)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_cut_off_or_damaged_archive(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)
    packed = PACK[suffix](idx(pixels))
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 255
    for content in (packed[: len(packed) // 2], packed[:5], bytes(flipped), b"not packed"):
        (tmp_path / f"bad{suffix}").write_bytes(content)
        with pytest.raises(VitrellisError, match=rf"bad{suffix}: "):
            read_idx(tmp_path / f"bad{suffix}", dimensions=3)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="gone: no such file"):
        read_idx(tmp_path / "gone", dimensions=1)


def test_images_and_labels_together(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx(PIXELS))
    labels.write_bytes(idx(np.array([1, 0], dtype=np.uint8)))
    split = read_idx_split(images, labels, size=(3, 4), classes=2)
    assert split.labels.tolist() == [1, 0]
    assert np.array_equal(split.images[1][0].numpy(), PIXELS[1])
    with pytest.raises(VitrellisError, match=r"images: has images of 3 x 4 pixels; expected 4 x 4"):
        read_idx_split(images, labels, size=(4, 4), classes=2)
    with pytest.raises(VitrellisError, match="labels: has label 1; 1 classes are 0 to 0"):
        read_idx_split(images, labels, size=(3, 4), classes=1)
    labels.write_bytes(idx(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(VitrellisError, match="labels: has 3 labels for the 2 images in images"):
        read_idx_split(images, labels, size=(3, 4), classes=2)
