"""MATLAB's files: as scipy writes them, and damaged in every byte."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from vitrellis.data.formats.mat import read_mat
from vitrellis.errors import VitrellisError

TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32"]
SHAPES: list[tuple[int, ...]] = [(1, 1), (1, 3), (2, 3, 4), (1, 8189), (0, 0)]


def message(file: Path, name: str = "x") -> str:
    with pytest.raises(VitrellisError) as caught:
        read_mat(file, name)
    return str(caught.value)


@pytest.mark.parametrize("compressed", [True, False])
def test_numbers_as_scipy_writes_them(tmp_path: Path, compressed: bool) -> None:
    others: dict[str, Any] = {"a": np.ones((3, 1)), "text": "words", "s": {"x": 1}, "c": 1 + 2j}
    for dtype, shape in itertools.product([*TYPES, "float64"], SHAPES):
        values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
        savemat(tmp_path / "x.mat", others | {"x": values}, do_compression=compressed)
        numbers = read_mat(tmp_path / "x.mat", "x")
        assert np.array_equal(numbers, values), f"{dtype} of shape {shape}"
        assert numbers.shape == shape


@pytest.mark.parametrize("name", ["text", "s", "c", "gone"])
def test_what_is_not_real_numbers(tmp_path: Path, name: str) -> None:
    savemat(tmp_path / "x.mat", {"text": "words", "s": {"x": 1}, "c": np.array([[1 + 2j]])})
    assert f"has no numbers called {name!r}" in message(tmp_path / "x.mat", name)


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_is_an_error_or_other_numbers(tmp_path: Path, compressed: bool) -> None:
    file = tmp_path / "x.mat"
    savemat(file, {"y": [[1.0]], "x": np.arange(40.0)}, do_compression=compressed)
    whole = file.read_bytes()
    errors = 0
    for position in range(len(whole)):
        for bits in (0xFF, 0x01, 0x80):
            damaged = bytearray(whole)
            damaged[position] ^= bits
            file.write_bytes(damaged)
            try:
                read_mat(file, "x")
            except VitrellisError:
                errors += 1
    assert errors > 100


def test_files_that_were_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "x.mat"
    savemat(file, {"x": np.arange(40.0)})
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert message(file).startswith(f"{file}: ")


@pytest.mark.parametrize("content", [b"", b"no matlab", bytes(200), b"\x89HDF" + bytes(600)])
def test_files_of_others(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mat").write_bytes(content)
    assert "is not a file of MATLAB 5" in message(tmp_path / "x.mat")
    assert "gone.mat: no such file" in message(tmp_path / "gone.mat")


def test_little_that_unpacks_to_much(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(100 * 2**20))
    tag = np.array([15, len(packed)], dtype="<u4").tobytes()
    (tmp_path / "x.mat").write_bytes(bytes(124) + b"\x00\x01IM" + tag + packed)
    assert "compressed element without an end" in message(tmp_path / "x.mat")


def test_the_other_byte_order(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        padding = bytes(-len(content) % 8)
        return np.array([kind, len(content)], dtype=">u4").tobytes() + content + padding

    flags = element(6, np.array([9, 0], dtype=">u4").tobytes())
    shape = element(5, np.array([1, 3], dtype=">i4").tobytes())
    matrix = flags + shape + element(1, b"x") + element(4, np.array([7, 8, 9], ">u2").tobytes())
    header = bytes(124) + b"\x01\x00MI"
    (tmp_path / "x.mat").write_bytes(header + element(14, matrix))
    assert read_mat(tmp_path / "x.mat", "x").tolist() == [[7, 8, 9]]
