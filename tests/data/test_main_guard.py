"""A script that trains, where each process that reads images would run it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing
from vitrellis.data.main_guard import check_main_guard

def train():
    multiprocessing.set_start_method({method!r})
    check_main_guard()
    print("started")

{calls}
"""
GUARDED = "if __name__ == '__main__':\n    train()"


@pytest.mark.parametrize(
    ("method", "calls", "is_started"),
    [
        ("spawn", "train()", False),
        ("forkserver", "train()", False),
        ("spawn", GUARDED, True),
        ("spawn", f"if True:\n    train()\n{GUARDED}", False),
        ("fork", "train()", True),
    ],
)
def test_an_unguarded_script(tmp_path: Path, method: str, calls: str, is_started: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(method=method, calls=calls))
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    if is_started:
        assert ended.stdout == "started\n", ended.stderr
    else:
        assert "script.py: line " in ended.stderr
        assert 'if __name__ == "__main__":' in ended.stderr


def test_a_test_is_no_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here pytest is, and its own call is guarded."""
    from vitrellis.data.main_guard import check_main_guard

    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "spawn")
    check_main_guard()
