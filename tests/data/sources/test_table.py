"""Tables of paths and labels, as spreadsheets, pandas and competitions write them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources.replicas import shades, write_image
from vitrellis.data.sources import load_source
from vitrellis.errors import UsageError, VitrellisError

ROWS: list[dict[str, Any]] = [
    {"path": "a/1.png", "label": "cat", "split": "train"},
    {"path": "a/2, too.png", "label": "ant", "split": "train"},
    {"path": "b/1.png", "label": "cat", "split": "validation"},
    {"path": "b/2.png", "label": "ant", "split": "Test"},
    {"path": "b/3.png", "label": "cat", "split": "test"},
]
SHADES = {"a/1.png": 60, "a/2, too.png": 90, "b/1.png": 120, "b/2.png": 150, "b/3.png": 180}


def write_table(file: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    for path, shade in SHADES.items():
        write_image(file.parent / path, shade, mode="L")
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.tsv", "\t"), ("t.jsonl", "")])
def test_the_three_splits_of_a_table(tmp_path: Path, name: str, delimiter: str) -> None:
    write_table(tmp_path / name, ROWS, delimiter)
    source = load_source("table", tmp_path)
    assert source.class_names == ("ant", "cat")
    assert source.channels == 1
    by_split = {split: part.labels.tolist() for split, part in source.splits.items()}
    assert by_split == {"train": [1, 0], "val": [1], "test": [0, 1]}
    assert [shades(part) for part in source.splits.values()] == [[60, 90], [120], [150, 180]]
    assert "paths in 'path', labels in 'label', splits in 'split'" in source.notes[0]


def test_a_spreadsheet_with_semicolons_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = write_table(tmp_path / "t.csv", ROWS, ";")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    source = load_source("table", file)  # the table itself is named
    assert [len(part) for part in source.splits.values()] == [2, 1, 2]


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "t.csv", ROWS).unlink()
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    assert load_source("table", tmp_path).train.labels.tolist() == [1, 0]


def test_numbers_are_in_the_order_of_their_sizes(tmp_path: Path) -> None:
    rows = [{"file": path, "grade": n} for path, n in zip(SHADES, (10, 2, 10, 2, 9), strict=True)]
    source = load_source("table", write_table(tmp_path / "t.csv", rows))
    assert source.class_names == ("2", "9", "10")
    assert source.train.labels.tolist() == [2, 0, 2, 0, 1]


def test_one_of_several_label_columns(tmp_path: Path) -> None:
    rows = [
        {"image": path, "breed": f"b{n % 2}", "species": f"s{n // 2}"}
        for n, path in enumerate(SHADES)
    ]
    write_table(tmp_path / "t.csv", rows)
    with pytest.raises(
        UsageError, match=r"label_column: not given.*columns are image, breed, spec"
    ):
        load_source("table", tmp_path)
    source = load_source("table", tmp_path, args={"label_column": "species"})
    assert source.train.labels.tolist() == [0, 0, 1, 1, 2]
    with pytest.raises(UsageError, match=r"'speces'. Did you mean 'species'?"):
        load_source("table", tmp_path, args={"label_column": "speces"})


def test_the_column_of_paths_is_the_one_that_names_images(tmp_path: Path) -> None:
    rows = [{"id": n, "where": path, "label": n % 2} for n, path in enumerate(SHADES)]
    source = load_source("table", write_table(tmp_path / "t.csv", rows))
    assert shades(source.train) == list(SHADES.values())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "../secret.png"}, "names '../secret.png', which is outside"),
        ({"path": "/etc/x.png"}, "names '/etc/x.png', which is outside"),
        ({"path": "a/../../x.png"}, "which is outside"),
        ({"path": "gone.png"}, r"gone\.png: no such file"),
        ({"path": "a/1.png", "split": "train"}, r"names .*1\.png twice, for train"),
        ({"path": "a/1.png", "split": "test"}, r"names .*1\.png twice, for both train and test"),
        ({"label": ""}, "has nothing in column 'label'"),
    ],
)
def test_rows_that_are_wrong(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write_table(tmp_path / "t.csv", [*ROWS, ROWS[0] | {"path": "b/4.png"} | row])
    write_image(tmp_path / "b/4.png", 200, mode="L")
    with pytest.raises(VitrellisError, match=message):
        load_source("table", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "path,label\na.png\n", "row 2 has more or fewer fields"),
        ("t.csv", "path\na.png\n", "has the single column 'path'"),
        ("t.csv", "path,label\n", "has no rows"),
        ("t.csv", b"path,label\n\xff\xfe,1\n", "is not text in UTF-8"),
        ("t.jsonl", "{", "line 1 is not JSON"),
        ("t.jsonl", "[1]", "line 1 should be an object"),
        ("t.jsonl", '{"path": "a", "label": 1}\n{"path": "b"}', "line 2 has the keys path"),
        ("t.txt", "", "holds no table"),
    ],
)
def test_tables_that_are_damaged(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VitrellisError, match=message):
        load_source("table", tmp_path)


def test_what_has_to_be_named(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ROWS)
    write_table(tmp_path / "b.csv", ROWS[:2])
    with pytest.raises(UsageError, match=r"table: not given, and .* holds a\.csv, b\.csv"):
        load_source("table", tmp_path)
    assert list(load_source("table", tmp_path, args={"table": "b.csv"}).splits) == ["train"]
    with pytest.raises(UsageError, match=r"no such file: .*c\.csv"):
        load_source("table", tmp_path, args={"table": "c.csv"})
