from __future__ import annotations

import codecs
import collections
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.data.sources.python2_pickle import Value, dumps
from vitrellis.data.formats.plain_pickle import read_plain_pickle
from vitrellis.errors import VitrellisError

ROWS = np.random.default_rng(0).integers(0, 256, (3, 400), dtype=np.uint8)
CONTENT: dict[bytes, Value] = {
    b"labels": [3, 300, 70000],
    b"data": ROWS,
    b"names": [b"a", b"x" * 300],
    b"n": -1,
}


def read(folder: Path, content: bytes) -> object:
    (folder / "file").write_bytes(content)
    return read_plain_pickle(folder / "file")


def assert_equal(ours: object, theirs: object) -> None:
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, np.ndarray):
            assert ours[key].dtype == value.dtype
            assert np.array_equal(ours[key], value)
        else:
            assert ours[key] == value


def test_a_python_2_pickle_is_read_as_python_reads_it(tmp_path: Path) -> None:
    packed = dumps(CONTENT)
    assert_equal(pickle.loads(packed, encoding="bytes"), CONTENT)
    assert_equal(read(tmp_path, packed), CONTENT)


@pytest.mark.parametrize("dtype", ["u1", "i8", "<i4", ">i2", "f4", "f8", "?"])
def test_python_3_pickles_with_arrays_of_numbers(tmp_path: Path, dtype: str) -> None:
    content = {"a": ROWS[:2].astype(dtype), "b": np.asfortranarray(ROWS), "c": [1.5, None, "é"]}
    for protocol in range(5):
        assert_equal(read(tmp_path, pickle.dumps(content, protocol)), content)


def test_arrays_are_our_own_to_write(tmp_path: Path) -> None:
    content: Any = read(tmp_path, dumps(CONTENT))
    assert content[b"data"].flags.writeable


class Touch:
    """Unpickled by Python, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_payload_is_refused_and_not_executed(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "executed"
    packed = pickle.dumps({b"data": Touch(marker), b"labels": [0]}, protocol)
    with pytest.raises(VitrellisError, match=r"file: refused: .*(getattr|pathlib)"):
        read(tmp_path, packed)
    assert not marker.exists()
    pickle.loads(packed)
    assert marker.exists()


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x011\x85R.", "builtins.exec"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", r"numpy.dtype.__init__"),
        (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
        (b"c_codecs\ndecode\n.", "_codecs.decode"),
        (pickle.dumps(collections.OrderedDict(a=1)), "collections.OrderedDict"),
        (pickle.dumps(codecs.lookup), "_codecs.lookup"),
    ],
)
def test_any_other_name_is_refused_and_told(tmp_path: Path, packed: bytes, name: str) -> None:
    with pytest.raises(VitrellisError, match=rf"file: refused: this pickle asks for {name},"):
        read(tmp_path, packed)


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], dtype=object),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "u1"), ("b", "O")]),
        np.zeros(2, dtype="datetime64[s]"),
        np.ma.masked_array([1], mask=[True]),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(
    tmp_path: Path, array: npt.NDArray[Any]
) -> None:
    with pytest.raises(VitrellisError, match="file: "):
        read(tmp_path, pickle.dumps({"data": array}, 2))


def test_nothing_a_file_does_outlives_it(tmp_path: Path) -> None:
    # BUILD sets attributes of what a name stands for: here of the stand-in for numpy.dtype
    sneaky = b"cnumpy\ndtype\n(N(dS'__call__'\nS'x'\nstb."
    with pytest.raises(VitrellisError, match="damaged"):
        read(tmp_path, sneaky)
    assert_equal(read(tmp_path, dumps(CONTENT)), CONTENT)


def test_persistent_objects_and_extensions_are_refused(tmp_path: Path) -> None:
    for packed in (b"P1\n.", b"\x80\x02\x82\x01."):
        with pytest.raises(VitrellisError, match="is not a pickle, or damaged"):
            read(tmp_path, packed)


def test_damage_is_refused_at_every_length(tmp_path: Path) -> None:
    packed = dumps({b"labels": [1, 2], b"data": ROWS[:, :4]})
    for length in range(len(packed)):
        with pytest.raises(VitrellisError, match="file: is not a pickle, or damaged or cut off"):
            read(tmp_path, packed[:length])


def test_damage_anywhere_is_read_or_refused_but_never_crashes(tmp_path: Path) -> None:
    packed = dumps({b"labels": [1, 2], b"data": ROWS[:, :4]})
    dice = random.Random(0)
    refused = 0
    for _ in range(500):
        content = bytearray(packed)
        content[dice.randrange(len(content))] = dice.randrange(256)
        try:
            read(tmp_path, bytes(content))
        except VitrellisError:
            refused += 1
    assert 0 < refused < 500


def test_a_memo_number_out_of_all_proportion_reserves_no_memory(tmp_path: Path) -> None:
    for packed in (b"\x80\x02}r\xff\xff\xff\x7f.", b"(dp99999999\n."):
        with pytest.raises(VitrellisError, match="damaged or cut off \\(memo number"):
            read(tmp_path, packed)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="gone: no such file"):
        read_plain_pickle(tmp_path / "gone")
    with pytest.raises(VitrellisError, match="cannot be read: Is a directory"):
        read_plain_pickle(tmp_path)
