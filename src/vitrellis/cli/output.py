"""Standard output that is written whole, or ends the command with an error.

A letter that the encoding lacks, such as a byte in the name of a file, is printed as an escape, as
Python does on standard error.

Without it, a full disk or a limit of the system ends a command with a traceback; and where Python
does not buffer (`PYTHONUNBUFFERED`), it loses without a word what the system did not take.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from vitrellis.errors import VitrellisError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Remembering(io.FileIO):
    """A file that remembers the error by which it could not be written."""

    failure: OSError | None = None

    def write(self, content: Buffer, /) -> int:
        """Writes bytes, as many as the system takes."""
        try:
            return super().write(content)
        except OSError as error:
            self.failure = error
            raise


class Output:
    """Standard output, whose errors are kept.

    Only the file that the process was started with is watched, not one that a notebook or a test
    put in its place.
    """

    def __init__(self) -> None:
        self._file: _Remembering | None = None
        stream: TextIO = sys.stdout
        if sys.__stdout__ is None or stream is not sys.__stdout__:
            return
        stream.flush()
        self._file = _Remembering(stream.fileno(), "wb", closefd=False)
        sys.stdout = self._stream = _text(self._file, stream)

    def error(self) -> VitrellisError | None:
        """The error that kept something from being written; None if all is written.

        A pipe whose reader has ended is no error: what it has not read was not wanted.
        """
        if self._file is None:
            return None
        try:
            self._stream.flush()
        except OSError as error:
            self._file.failure = error
        failure = self._file.failure
        if failure is None:
            return None
        self._send_the_rest_nowhere()
        if isinstance(failure, BrokenPipeError):
            return None
        return VitrellisError(
            f"standard output: could not be written: {failure.strerror}. What is there is cut "
            "short; make room or choose another place, and run the same command again"
        )

    def _send_the_rest_nowhere(self) -> None:
        """Keeps Python from trying again, and failing, when the process ends."""
        assert self._file is not None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._file.fileno())
        os.close(nowhere)


def _text(file: io.FileIO, like: TextIO) -> io.TextIOWrapper:
    """A buffered stream of text on a file, in the encoding of another."""
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=like.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
