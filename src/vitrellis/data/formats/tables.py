"""Tables in files: CSV, TSV, JSON lines and Parquet, as rows with named columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitrellis.data.formats.arrow_files import import_pyarrow
from vitrellis.errors import UsageError, VitrellisError

TableRow = dict[str, Any]
"""The fields of a row, by column."""


def read_table(file: Path) -> list[TableRow]:
    """The rows of a table, which has at least one row and two columns.

    Raises:
        UsageError: If the file's name ends otherwise than those of tables.
        VitrellisError: If it is missing, damaged, or has no rows.
    """
    reader = TABLE_READERS.get(file.suffix.lower())
    if reader is None:
        raise UsageError(
            f"data.args.table: {file.name} is none of {', '.join(TABLE_READERS)}, which can be read"
        )
    rows = reader(file)
    if not rows:
        raise VitrellisError(f"{file}: has no rows")
    if len(rows[0]) < 2:
        raise VitrellisError(
            f"{file}: has the single column {next(iter(rows[0]), '')!r}; a path and a label are "
            "needed. Columns are separated by commas in .csv and by tabulators in .tsv"
        )
    return rows


def _separated(file: Path) -> list[TableRow]:
    """The rows of a CSV or TSV file, whose first line names the columns."""
    delimiter = "\t" if file.suffix.lower() in (".tsv", ".tab") else ","
    try:
        # utf-8-sig: what spreadsheets write begins with a byte order mark
        with file.open(newline="", encoding="utf-8-sig", errors="strict") as lines:
            first = lines.readline()
            if delimiter == "," and "," not in first and ";" in first:
                delimiter = ";"  # spreadsheets write it where the comma separates decimals
            lines.seek(0)
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise VitrellisError(f"{file}: is not text in UTF-8 ({error}); save it so") from None
    except (csv.Error, OSError) as error:
        raise VitrellisError(f"{file}: cannot be read as a table ({error})") from None
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise VitrellisError(
                f"{file}: row {number} has more or fewer fields than the first row has names"
            )
    return rows


def _json_lines(file: Path) -> list[TableRow]:
    rows: list[TableRow] = []
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VitrellisError(f"{file}: cannot be read ({error})") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise VitrellisError(f"{file}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise VitrellisError(f"{file}: line {number} should be an object, as in {_JSON_LINE}")
        if rows and row.keys() != rows[0].keys():
            raise VitrellisError(
                f"{file}: line {number} has the keys {', '.join(row)}; the first line has "
                f"{', '.join(rows[0])}"
            )
        rows.append(row)
    return rows


_JSON_LINE = '{"path": "a/1.jpg", "label": "cat"}'


def _parquet(file: Path) -> list[TableRow]:
    pyarrow = import_pyarrow(file)
    from pyarrow import parquet

    try:
        rows: list[TableRow] = parquet.read_table(file, partitioning=None).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise VitrellisError(f"{file}: is no Parquet file, or damaged ({error})") from None
    return rows


TABLE_READERS: Mapping[str, Callable[[Path], list[TableRow]]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
"""The reader of each kind of table, by the ending of its name."""
