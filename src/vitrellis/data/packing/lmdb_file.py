"""A packed dataset as one LMDB file: the index, and each image under its split and number."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

from vitrellis.errors import VitrellisError

INDEX_KEY = b"vitrellis-index"
"""The key of the index, which is written last: without it, a file was not packed to its end."""

_FOLDER2LMDB_KEYS = (b"__len__", b"__keys__")


class LmdbFile:
    """An LMDB file that is read from any process; each opens it for itself, and once.

    Args:
        path: The file.

    Raises:
        VitrellisError: If the package `lmdb` is missing, or the file is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise VitrellisError(f"{path}: no such file")
        known = _opened.get(str(path.resolve()))
        if known is not None and known.identity != _identity(path):
            known.environment.close()  # another file has taken its place
            del _opened[str(path.resolve())]
        self._environment()

    def read(self, key: str) -> bytes:
        """The bytes under a key.

        Raises:
            VitrellisError: If there is none of this key, or the file is damaged.
        """
        content = self.get(key.encode())
        if content is None:
            raise VitrellisError(f"{self.path}: has no image {key}; it is damaged. Pack it again")
        return content

    def files(self) -> list[Path]:
        """The file."""
        return [self.path]

    def get(self, key: bytes) -> bytes | None:
        """The bytes under a key, or None."""
        lmdb = import_lmdb(self.path)
        try:
            with self._environment().begin() as transaction:
                content: bytes | None = transaction.get(key)
        except lmdb.Error as error:
            raise VitrellisError(f"{self.path}: is damaged ({error}); pack it again") from None
        return content

    def index_bytes(self) -> bytes:
        """The index.

        Raises:
            VitrellisError: If it has none, saying who else may have written the file.
        """
        content = self.get(INDEX_KEY)
        if content is not None:
            return content
        if all(self.get(key) is not None for key in _FOLDER2LMDB_KEYS):
            raise VitrellisError(
                f"{self.path}: was written by folder2lmdb, as DHVT and EViT use it. Its images are "
                "wrapped by pyarrow.serialize, which newer versions of pyarrow cannot read and "
                "which may execute code. Pack the folder that it was made from: vitrellis data "
                "pack FOLDER NEW.lmdb"
            )
        raise VitrellisError(
            f"{self.path}: is an LMDB file that `vitrellis data pack` did not write, or not to its "
            "end; the same command continues"
        )

    def _environment(self) -> Any:
        """The file as this process has opened it."""
        key = str(self.path.resolve())
        known = _opened.get(key)
        if known is not None and known.process == os.getpid():
            return known.environment
        if known is not None:
            known.environment.close()  # a parent's, which must not be used behind a fork
        lmdb = import_lmdb(self.path)
        try:
            environment = lmdb.open(key, subdir=False, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            _opened.pop(key, None)
            raise VitrellisError(f"{self.path}: is no LMDB file, or damaged ({error})") from None
        # a page that is missing at the end of a mapped file would end the process by a signal
        length = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if self.path.stat().st_size < length:
            environment.close()
            _opened.pop(key, None)
            raise VitrellisError(
                f"{self.path}: has {self.path.stat().st_size:,} of its {length:,} bytes; it was "
                "cut off. Pack it again"
            )
        _opened[key] = _Opened(os.getpid(), _identity(self.path), environment)
        return environment


class _Opened(NamedTuple):
    """An open file, the process that opened it, and what tells it from another at its path."""

    process: int
    identity: tuple[int, int, int]
    environment: Any


def _identity(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


_opened: dict[str, _Opened] = {}
"""The open files by their paths: LMDB allows one a process."""


def import_lmdb(path: Path) -> Any:
    """The package `lmdb`.

    Raises:
        VitrellisError: If it is not installed, naming the file that needs it.
    """
    if importlib.util.find_spec("lmdb") is None:
        raise VitrellisError(f"{path}: needs the package lmdb: pip install 'vitrellis[lmdb]'")
    import lmdb

    return lmdb


def image_key(split: str, number: int) -> str:
    """The key of an image."""
    return f"{split}/{number:09}"
