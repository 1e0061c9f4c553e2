from __future__ import annotations

from pathlib import Path

import pytest

from vitrellis.data.formats.json_files import read_json, records
from vitrellis.errors import VitrellisError


def test_what_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    values = read_json(tmp_path / "x.json")
    assert records(values, {"a": int}, tmp_path / "x.json", "it") == [{"a": 1}]


@pytest.mark.parametrize("content", [b"", b"[1", b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(VitrellisError, match=r"x\.json: is not JSON, or damaged or cut off"):
        read_json(tmp_path / "x.json")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")
    with pytest.raises(VitrellisError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


@pytest.mark.parametrize("values", [{}, None, [{}], [{"a": "1"}], [{"a": True}], [1]])
def test_other_records(values: object) -> None:
    with pytest.raises(
        VitrellisError, match=r"x\.json: .*(should be a list|should have 'a' of type int)"
    ):
        records(values, {"a": int}, Path("x.json"), "it")
