"""Runs `vitrellis` by its entry point in this process, or in a process of its own.

Both go through `vitrellis.cli.main.main`, which prints errors and chooses the exit code. A process
of its own loads torch again, which takes seconds, so each command has one or two such tests.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

from vitrellis.assembly.launch import process_settings_kept
from vitrellis.cli.main import main

_ENVIRONMENT = {"COLUMNS": "80", "NO_COLOR": "1"}


class Ended(NamedTuple):
    """The output of a command that has ended."""

    out: str
    err: str


def run_here(*words: str, cwd: Path | None = None, code: int = 0, stdin: str = "") -> Ended:
    """Runs `vitrellis WORDS` in this process, and checks the exit code."""
    return _checked(vitrellis(*words, cwd=cwd, stdin=stdin), code)


def run_apart(*words: str, cwd: Path | None = None, code: int = 0) -> Ended:
    """Runs `vitrellis WORDS` in a process of its own, and checks the exit code."""
    ended = subprocess.run(
        [sys.executable, "-m", "vitrellis", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | _ENVIRONMENT,
        timeout=300,
    )
    return _checked(ended, code)


def vitrellis(
    *words: str, cwd: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs `vitrellis WORDS` in this process, and leaves the settings of the process alone."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
        for _ in range(2)
    )
    with (
        process_settings_kept(),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.dict(os.environ, _ENVIRONMENT),
        patch.object(sys, "argv", ["vitrellis", *words]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        pytest.raises(SystemExit) as end,
    ):
        main()
    for stream in (out, err):
        stream.seek(0)
    exit_code = end.value.code or 0
    assert isinstance(exit_code, int)
    return subprocess.CompletedProcess(words, exit_code, out.read(), err.read())


def assert_one_error(ended: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    """The command ended with `code`, and said `message` once, without a traceback."""
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def _checked(ended: subprocess.CompletedProcess[str], code: int) -> Ended:
    assert ended.returncode == code, ended
    assert "Traceback" not in ended.stderr
    return Ended(ended.stdout, ended.stderr)
