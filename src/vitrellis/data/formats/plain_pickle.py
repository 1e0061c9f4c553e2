"""Reading pickles that hold nothing but plain values, without executing anything.

A pickle is a program: it may call any function that it names. Here the only known names are those
with which numpy arrays are written. Each of them gets a small stand-in of our own, made anew each
time, so that no name leads to a function of Python or numpy and nothing outlives the reading. Any
other name is refused before anything happens.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrellis.data.formats import read_file
from vitrellis.errors import VitrellisError


def read_plain_pickle(path: Path) -> object:
    """The containers, strings, numbers and arrays in a pickle; Python 2 strings become bytes.

    Args:
        path: The file.

    Raises:
        VitrellisError: If it is missing, damaged, or names anything but plain arrays.
    """
    return parse_plain_pickle(read_file(path), str(path))


def parse_plain_pickle(content: bytes, path: str) -> object:
    """As `read_plain_pickle`, of a file's content.

    Args:
        content: The bytes of the pickle.
        path: The name of the file, for messages.

    Raises:
        VitrellisError: If it is damaged, or names anything but plain arrays.
    """
    try:
        _check_lengths(content)
        return _unwrap(_PlainUnpickler(io.BytesIO(content), encoding="bytes").load())
    except _ForbiddenError as forbidden:
        raise VitrellisError(
            f"{path}: refused: this pickle asks for {forbidden}, and only plain containers and "
            "arrays of numbers are read. It is not the original file; nothing in it was executed"
        ) from None
    except _DAMAGE as error:
        raise VitrellisError(
            f"{path}: is not a pickle, or damaged or cut off ({error}); get the file again"
        ) from None


class _ForbiddenError(Exception):
    """The pickle names something that plain values do not need."""


# The errors that Python's unpickler raises on damaged files, and the stand-ins on wrong arguments
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RecursionError,
)


def _check_lengths(content: bytes) -> None:
    """Refuse memo numbers that a file of this length cannot need; Python allocates up to them."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise ValueError(f"memo number {argument}")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise _ForbiddenError(f"{module}.{name}")
        return stand_in()


class _NdarrayName:
    """Stands for the class `numpy.ndarray`, which is only mentioned, never called."""

    __slots__ = ()


class _Array:
    """An array that is being read; `__setstate__` receives shape, type and bytes."""

    __slots__ = ("value",)
    value: npt.NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise ValueError("an array without plain numbers")
        if not all(isinstance(length, int) and length >= 0 for length in shape):
            raise ValueError(f"an array of shape {shape}")
        flat = np.frombuffer(content, dtype=dtype.value)
        self.value = flat.reshape(shape, order="F" if is_fortran else "C").copy()


class _Reconstruct:
    """Stands for numpy's function that makes an empty array."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, typecode: object) -> _Array:
        if not isinstance(kind, _NdarrayName):
            raise ValueError(f"an array of class {type(kind).__name__}")
        return _Array()


class _Dtype:
    """An element type that is being read: integers, floats and booleans alone."""

    __slots__ = ("value",)
    value: np.dtype[Any]

    def __call__(self, code: bytes | str, *_: object) -> _Dtype:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if text not in _NUMBERS:
            raise ValueError(f"an array of type {text!r}")
        dtype = _Dtype()
        dtype.value = np.dtype(text)
        return dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        text = order.decode("ascii") if isinstance(order, bytes) else order
        if text not in ("<", ">", "|", "="):
            raise ValueError(f"an array of byte order {text!r}")
        self.value = np.dtype(text + self.value.str[1:])


class _Latin1:
    """Stands for `codecs.encode`, by which Python 3 writes bytes in old pickles."""

    __slots__ = ()

    def __call__(self, text: str, encoding: bytes | str) -> bytes:
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"text encoded as {encoding!r}")
        return text.encode("latin1")


_NUMBERS = frozenset(
    {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f4", "f8"}
)
_STAND_INS: dict[tuple[str, str], type[Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
}


def _unwrap(value: object) -> object:
    """Arrays in place of their stand-ins: of a value itself, or as a value of a dict."""
    if isinstance(value, dict):
        return {key: _unwrap(item) for key, item in value.items()}
    return value.value if isinstance(value, _Array) else value
