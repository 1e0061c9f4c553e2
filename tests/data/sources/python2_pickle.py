"""Pickles as Python 2's `cPickle` wrote the CIFAR archives, opcode by opcode (protocol 2)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Value = int | bytes | list[int] | list[bytes] | npt.NDArray[np.uint8]


def dumps(content: Mapping[bytes, Value]) -> bytes:
    """A dict with byte keys; memo numbers are left out where nothing refers to them."""
    items = b"".join(_string(key) + _value(value) for key, value in content.items())
    return b"\x80\x02}q\x01(" + items + b"u."


def _value(value: Value) -> bytes:
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, bytes):
        return _string(value)
    if isinstance(value, list):
        items = [_integer(item) if isinstance(item, int) else _string(item) for item in value]
        return b"](" + b"".join(items) + b"e"
    return _array(value)


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    return b"J" + struct.pack("<i", value)


def _string(value: bytes) -> bytes:
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def _array(value: npt.NDArray[np.uint8]) -> bytes:
    rows, columns = value.shape
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    element = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    element += b"(K\x03U\x01|NNN" + _integer(-1) + _integer(-1) + b"K\x00tb"
    shape = _integer(rows) + _integer(columns) + b"\x86"
    return empty + b"(K\x01" + shape + element + b"\x89" + _string(value.tobytes()) + b"tb"
