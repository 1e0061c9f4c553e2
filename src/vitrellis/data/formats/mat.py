"""Arrays of numbers from files of MATLAB 5 to 7.2; anything else in such files is left unread.

Format: "MAT-File Format", The MathWorks; 128 bytes of header, then elements of a type, a length and
content, padded to eight bytes; an element may be compressed by zlib. scipy's reader knows all of
it, but crashes Python on some damaged files, which no error message can follow.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrellis.data.formats import read_file
from vitrellis.errors import VitrellisError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_LARGEST = 64 * 2**20
"""Greatest number of bytes that a compressed element may have after decompression."""
_DTYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_NUMBER_CLASSES = range(6, 16)


def read_mat(path: Path, name: str) -> npt.NDArray[Any]:
    """The array of real numbers that a file holds under `name`.

    Args:
        path: The file.
        name: The variable's name.

    Raises:
        VitrellisError: If the file is missing or damaged, or has no such array.
    """
    content = read_file(path)
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER])
    if order is None:
        raise VitrellisError(
            f"{path}: is not a file of MATLAB 5 to 7.2 (its header does not say so)"
        )
    try:
        for kind, element in _elements(content[_HEADER:], order, unpack=True):
            array = _matrix(element, order, name) if kind == _MATRIX else None
            if array is not None:
                return array
    except (_DamageError, zlib.error) as error:
        raise VitrellisError(f"{path}: is damaged or cut off ({error}); get it again") from None
    raise VitrellisError(f"{path}: has no numbers called {name!r}")


class _DamageError(Exception):
    """The file is not as the format says."""


def _elements(content: bytes, order: str, *, unpack: bool = False) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element; compressed ones may be unpacked, once."""
    start = 0
    while start < len(content):
        if len(content) - start < 8:
            raise _DamageError("an element without a length")
        kind, length = np.frombuffer(content, f"{order}u4", 2, start).tolist()
        if kind >> 16:  # a short element: type, length and content in eight bytes
            kind, length = kind & 0xFFFF, kind >> 16
            begin, following = start + 4, start + 8
            if length > 4:
                raise _DamageError(f"a short element of {length} bytes")
        else:
            begin = start + 8
            padding = 0 if kind == _COMPRESSED else -length % 8
            following = begin + length + padding
        element = content[begin : begin + length]
        if len(element) < length:
            raise _DamageError(f"an element of {length} bytes ends after {len(element)}")
        if kind == _COMPRESSED and unpack:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(element, _LARGEST)
            if not unpacker.eof:
                raise _DamageError("a compressed element without an end")
            yield from _elements(unpacked, order)
        else:
            yield kind, element
        start = following


def _matrix(element: bytes, order: str, name: str) -> npt.NDArray[Any] | None:
    """The array in an element; None if it has another name or is not of real numbers."""
    parts = _elements(element, order)
    flags = _numbers(next(parts, None), order)
    shape = tuple(_numbers(next(parts, None), order).tolist())
    is_whole = flags.dtype.kind == "u" and all(isinstance(side, int) for side in shape)
    if not len(flags) or not is_whole or any(side < 0 for side in shape):
        raise _DamageError(f"an array of shape {shape}")
    _, own_name = next(parts, (0, b""))
    is_complex = int(flags[0]) & 0x0800
    if own_name != name.encode() or int(flags[0]) & 0xFF not in _NUMBER_CLASSES or is_complex:
        return None
    values = _numbers(next(parts, None), order)
    if len(values) != math.prod(shape):
        raise _DamageError(f"{len(values)} numbers in an array of shape {shape}")
    return values.reshape(shape, order="F")


def _numbers(element: tuple[int, bytes] | None, order: str) -> npt.NDArray[Any]:
    """The `(N,)` numbers in an element."""
    if element is None:
        raise _DamageError("an array that is not whole")
    kind, content = element
    if kind not in _DTYPES:
        raise _DamageError(f"numbers of type {kind}")
    dtype = np.dtype(order + _DTYPES[kind])
    if len(content) % dtype.itemsize:
        raise _DamageError(f"{len(content)} bytes of numbers of {dtype.itemsize} bytes")
    return np.frombuffer(content, dtype)
