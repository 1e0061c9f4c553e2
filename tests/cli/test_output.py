"""Standard output that takes nothing, or only a part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
from vitrellis.cli.main import main
sys.argv = ["vitrellis", "recipes", "--json"]
main()
"""


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has this device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["recipes", "--json"], ["--help"]])
def test_a_device_that_is_full(words: list[str], unbuffered: str) -> None:
    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "vitrellis", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: standard output: could not be written: No space left")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_file_that_takes_only_a_part(tmp_path: Path, unbuffered: str) -> None:
    """The system takes 5,000 bytes at once, and refuses the rest only when it is tried again."""
    with (tmp_path / "out.json").open("w") as out:
        ended = subprocess.run(
            [sys.executable, "-c", LIMITED],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert (tmp_path / "out.json").stat().st_size == 5000
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: standard output: could not be written: File too large")


def test_a_reader_that_has_seen_enough() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vitrellis", "recipes", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert err == b""
