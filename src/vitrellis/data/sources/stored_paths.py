"""Many paths in two arrays.

A process that reads images has a copy of their paths. Its memory is that of its parent until one of
the two writes to it, and Python writes to every object that it touches, to count references: of a
tuple of a million strings, each process would sooner or later have a copy of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class StoredPaths(Sequence[str]):
    """Paths that never change.

    Args:
        paths: With any characters that a file system allows.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [path.encode(errors="surrogateescape") for path in paths]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._ends = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        start, end = self._ends[index % len(self)], self._ends[index % len(self) + 1]
        return self._bytes[start:end].tobytes().decode(errors="surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredPaths):
            return NotImplemented
        return np.array_equal(self._ends, other._ends) and np.array_equal(self._bytes, other._bytes)

    def __hash__(self) -> int:
        return hash((len(self), self._bytes.tobytes()))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:2]))
        return f"<{len(self)} paths: {shown}{', ...' if len(self) > 2 else ''}>"
