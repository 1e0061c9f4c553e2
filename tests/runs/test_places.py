"""Names of files and folders that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

import vitrellis
from vitrellis.errors import UsageError
from vitrellis.runs.places import check_folder, check_place


def test_names_that_the_system_can_have(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere/x")
    for name in ("new", "new/deeper/" + "a" * 255, ".", "link"):
        check_folder(tmp_path / name)
    check_place(tmp_path / "file")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 256, "File name too long"),
        ("new/" + "a" * 256 + "/b", "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("file/b", "file is a file, and no folder"),
        ("file", "is a file"),
        ("a\0b", "a name cannot hold a zero byte"),
        ("circle/x", "in a circle|symbolic links"),
    ],
)
def test_names_that_it_cannot(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError, match=reason):
        check_folder(tmp_path / name)
    with pytest.raises(UsageError, match=reason):
        vitrellis.train("demo-alone", out=tmp_path / name)
