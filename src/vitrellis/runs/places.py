"""Checks names of files and folders to write, before anything is computed for them."""

from __future__ import annotations

import os
from pathlib import Path

from vitrellis.errors import UsageError


def check_place(path: Path) -> None:
    """Refuses a name that the system cannot have there; nothing is written.

    Args:
        path: A file or a folder that need not exist, and nor need the folders above it.

    Raises:
        UsageError: If a name is too long or has a zero byte, if a file stands where a folder would
            have to be, or if the folder where it begins may not be written to.
    """
    if "\0" in str(path):
        raise UsageError(f"{str(path)!r}: a name cannot hold a zero byte. Give another one")
    try:
        target = path.resolve()
        known = next(each for each in target.parents if each.exists())
        missing = target.relative_to(known).parts
        for name in missing:  # each by itself: behind a folder that is missing, no name is read
            (known / name).exists()
        is_there = target.exists()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}. Give another name") from error
    except RuntimeError as error:  # of earlier versions of Python
        raise UsageError(f"{path}: its links lead in a circle. Give another name") from error
    if not known.is_dir():
        raise UsageError(f"{path}: {known} is a file, and no folder. Give another place")
    if not is_there and not os.access(known, os.W_OK):
        raise UsageError(f"{path}: {known} may not be written to. Give another place")


def check_folder(path: Path) -> None:
    """Refuses what can be no folder, for the reasons of `check_place`, and an existing file.

    Args:
        path: A folder that need not exist.

    Raises:
        UsageError: Naming the path.
    """
    check_place(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file. Use another --out")
