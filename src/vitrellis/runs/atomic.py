"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vitrellis.errors import VitrellisError


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place, flushes it to the disk, and moves it there in one step.

    A kill at any moment leaves the old file or the new one; a failure leaves the old one.

    Args:
        path: The file. Missing folders are made.
        write: The function that writes to a path.

    A link is followed: the file that it leads to is written.

    Raises:
        VitrellisError: If it cannot be written, naming the file and the reason; if it is a device
            or a pipe, which a move would replace.
    """
    check_can_be_written(path)
    if path.is_symlink():
        path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_move(path, write)
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error
    except RuntimeError as error:
        if not _is_from_torch_save(error):
            raise
        raise _not_written(path, "the disk is full, or fails") from error


def check_can_be_written(path: Path) -> None:
    """Refuses what `atomic_write` could not write, so that nobody waits for it in vain.

    Args:
        path: The file, which need not exist, and nor need its folder.

    Raises:
        VitrellisError: If it is a folder, a device or a pipe, or its name is too long, or its
            folder cannot be written to.
    """
    try:
        if path.is_dir():
            raise VitrellisError(f"{path}: is a folder. Give the name of a file to write")
        if path.exists() and not path.is_file():
            raise VitrellisError(
                f"{path}: is a device or a pipe, and is not replaced. Give the name of a file to "
                "write"
            )
        target = path.resolve()
        folder = next(each for each in target.parents if each.exists())
        _temporary(folder / target.name).exists()  # an error if its name is too long
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error
    if not folder.is_dir():
        raise _not_written(path, f"{folder} is no folder")
    if not os.access(folder, os.W_OK):
        raise _not_written(path, f"{folder} may not be written to")


def write_json(path: Path, values: object) -> None:
    """Writes values as indented JSON, whole or not at all.

    Args:
        path: The file. Missing folders are made.
        values: Dictionaries, lists, strings and numbers.

    Raises:
        VitrellisError: If it cannot be written, naming the file and the reason; or if a number is
            NaN or infinite, which JSON has no words for, naming the key.
    """
    text = as_json(values, str(path), indent=2) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text))


def as_json(
    values: object, label: str, *, indent: int | None = None, ensure_ascii: bool = True
) -> str:
    """Values as JSON text.

    Args:
        values: Dictionaries, lists, strings and numbers.
        label: Where the text goes, for the message.
        indent: The number of spaces by which each level is indented; None for a single line.
        ensure_ascii: Whether to escape letters that ASCII lacks.

    Raises:
        VitrellisError: If a number is NaN or infinite, naming its key.
    """
    try:
        return json.dumps(values, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError as error:
        wrong = next(_not_finite(values), None)
        if wrong is None:
            raise
        key, value = wrong
        raise VitrellisError(
            f"{label}: not written, because {key} is {value}: JSON has no such number. The model "
            "has diverged, or a figure is undefined"
        ) from error


def _not_finite(values: object, key: str = "") -> Iterator[tuple[str, float]]:
    """The numbers that are NaN or infinite, each with its key, such as `best.test.nll`."""
    if isinstance(values, float) and not math.isfinite(values):
        yield key or "the value", values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _not_finite(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from _not_finite(value, f"{key}[{number}]")


def _write_and_move(path: Path, write: Callable[[Path], object]) -> None:
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _sync_folder(folder: Path) -> None:
    """Makes the move itself last through a power cut; Windows does so by itself."""
    if sys.platform == "win32":  # which cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_from_torch_save(error: RuntimeError) -> bool:
    """Whether `torch.save` could not write; it drops the operating system's reason."""
    return "inline_container" in str(error) or "iostream error" in str(error)


def _not_written(path: Path, reason: str) -> VitrellisError:
    return VitrellisError(
        f"could not write {path}: {reason}. Nothing was changed; make room or choose another "
        "place, and run the same command again"
    )
