"""Readers of file formats, which execute nothing."""

from __future__ import annotations

from pathlib import Path

from vitrellis.errors import VitrellisError


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        VitrellisError: If it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise VitrellisError(f"{path}: no such file") from None
    except OSError as error:
        raise VitrellisError(f"{path}: cannot be read: {error.strerror}") from None
