"""A process that is killed as it is about to write: at the n-th operation that changes a folder.

Python reports to audit hooks what it opens, moves, makes and deletes. `os.fsync`, which is not
reported, is replaced: there a file is complete, and not yet in its place.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile"}


class Killer:
    """Counts the operations that change a folder, and kills this process before one of them.

    Args:
        folder: The folder. What happens elsewhere is not counted.
        at: The operation, by its number from 0 or as its line in `counted`, such as
            `os.rename x/.recipe.yaml.tmp`; None counts all of them.
        counted: The file to which a line is added for each operation.
    """

    def __init__(self, folder: Path, at: int | str | None, counted: Path) -> None:
        self.folder = str(folder.resolve())
        self.at = at
        self.done = 0
        self.counted = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)

    def begin(self) -> None:
        """Counts from now on, until the process ends."""
        sys.addaudithook(self._hear)
        mock.patch.object(os, "fsync", self._before(os.fsync)).start()

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
            self._count(event, path)
        elif event in _CHANGES:
            self._count(event, arguments[0])

    def _before(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        def fsync(handle: Any) -> None:
            self._count("fsync", f"/proc/self/fd/{handle}")
            original(handle)

        return fsync

    def _count(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith(self.folder):
            return
        line = f"{event} {os.path.relpath(real, self.folder)}"
        if self.at in (self.done, line):
            os.kill(os.getpid(), signal.SIGKILL)
        self.done += 1
        os.write(self.counted, f"{line}\n".encode())
