"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vitrellis.errors import VitrellisError


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place, flushes it to the disk, and moves it there in one step.

    A kill at any moment leaves the old file or the new one; a failure leaves the old one.

    Args:
        path: Where the file goes. Missing folders are made.
        write: Writes to the path that it is given.

    Raises:
        VitrellisError: If it cannot be written, naming the file and the reason.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise VitrellisError(
            f"could not write {path}: {reason}. Nothing was changed; make room or choose another "
            "place, and run the same command again"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Makes the move itself last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
