"""Image files by the words of a command: files, folders, or a list on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def image_files(paths: list[str]) -> list[Path]:
    """The image files, with those inside folders in order of name.

    Args:
        paths: Files, folders, and `-` for a list on standard input.

    Raises:
        VitrellisError: If there are none.
    """
    from vitrellis.data.sources import list_images
    from vitrellis.errors import VitrellisError

    files: list[Path] = []
    for path in _expanded(paths):
        if path.is_dir():
            inside = list(list_images(path).images)
            if not inside:
                raise VitrellisError(f"{path}: holds no images")
            files += inside
        else:
            files.append(path)
    if not files:
        raise VitrellisError("no images: standard input names none")
    return files


def _expanded(paths: list[str]) -> Iterator[Path]:
    for text in paths:
        if text == "-":
            # as bytes, because names of files need not be Unicode
            lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
            yield from (Path(os.fsdecode(line)) for line in lines if line)
        else:
            yield Path(text).expanduser()
