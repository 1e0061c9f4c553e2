"""Runs the real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def vitrellis(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `vitrellis WORDS` prints, and how it ends."""
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "vitrellis", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=120,
    )


def assert_one_error(ended: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    """The command ended with `code`, and said `message` once, without a traceback."""
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
