"""Images named in a table: CSV, TSV, JSON lines or Parquet, with a path and a label in each row.

Columns are found by their usual names, or named in `data.args`. Classes are numbered in the order
of their labels: numbers by size, words by their Unicode characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from vitrellis.data.formats.tables import TABLE_READERS, TableRow, read_table
from vitrellis.data.source import Source, root_folder
from vitrellis.data.sources.files import (
    file_splits,
    is_image,
    path_below,
)
from vitrellis.data.sources.names_in_files import SPLIT_WORDS
from vitrellis.errors import UsageError, VitrellisError, unknown_name

_PATH_COLUMNS: tuple[str, ...] = ("path", "file", "filename", "file_name", "filepath", "file_path")
_PATH_COLUMNS += ("image", "image_path", "img", "img_path", "image_id", "id", "name")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "y")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")
_CONTENTS = "images, and a table (.csv, .tsv, .jsonl or .parquet) of their paths and labels"


def load_table(
    root: Path | None,
    channels: int | None = None,
    *,
    table: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
) -> Source:
    """The images that a table names.

    Args:
        root: The folder that paths begin at, or the table itself.
        channels: 1 or 3 to make all images grey or colour; None chooses grey if all are.
        table: The table's file, if the folder holds several.
        path_column: The column of paths, if it has none of the usual names.
        label_column: The column of labels, if it has none of the usual names.
        split_column: The column of splits (train, val or test); found by its name if there is one.

    Raises:
        UsageError: If a column has to be named, or there is none of that name.
        VitrellisError: If the table is missing or damaged, or an image is.
    """
    folder, file = _table_file(root, table)
    rows = read_table(file)
    columns = list(rows[0])
    split_at = _split_column(rows, columns, split_column, file)
    label_at = label_column_of(columns, label_column, {path_column, split_at}, file)
    path_at = _path_column(rows, columns, path_column, {label_at, split_at}, file)
    by_split = _by_split(rows, split_at, file)
    class_names = class_names_of(rows, label_at, file)
    number = {name: index for index, name in enumerate(class_names)}
    paths = {
        split: [folder / path_below(folder, field_text(row, path_at, file), file) for row in part]
        for split, part in by_split.items()
    }
    _refuse_repeats(paths, file)
    labels = {
        split: torch.tensor(
            [number[field_text(row, label_at, file)] for row in part], dtype=torch.int64
        )
        for split, part in by_split.items()
    }
    splits = file_splits(folder, paths, labels, channels)
    if "train" not in splits:
        raise VitrellisError(f"{file}: no row of column {split_at!r} says train")
    return Source(
        "table",
        class_names,
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        notes=(f"{file.name}: paths in {path_at!r}, labels in {label_at!r}, {_where(split_at)}",),
    ).checked()


def _where(split_at: str | None) -> str:
    return "no column of splits" if split_at is None else f"splits in {split_at!r}"


def _table_file(root: Path | None, table: str | None) -> tuple[Path, Path]:
    """The folder that paths begin at, and the table."""
    if root is not None and root.expanduser().is_file() and table is None:
        return root.expanduser().parent, root.expanduser()
    folder = root_folder(root, "table", _CONTENTS)
    if table is not None:
        file = folder / Path(str(table)).expanduser()
        if not file.is_file():
            raise UsageError(f"data.args.table: no such file: {file}")
        return folder, file
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in TABLE_READERS]
    if not files:
        raise VitrellisError(f"data.root: {folder} holds no table. It should hold {_CONTENTS}")
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise UsageError(f"data.args.table: not given, and {folder} holds {names}; name one")
    return folder, files[0]


def _split_column(
    rows: Sequence[TableRow], columns: list[str], given: str | None, file: Path
) -> str | None:
    if given is not None:
        return _known(given, columns, "split_column", file)
    for column in _of_names(columns, _SPLIT_COLUMNS):
        if all(str(row[column]).strip().lower() in SPLIT_WORDS for row in rows):
            return column
    return None


def label_column_of(
    columns: list[str], given: str | None, taken: set[str | None], file: Path
) -> str:
    """The column of labels: the given one, or the only one that is called so.

    Args:
        columns: All columns.
        given: The column that the user names.
        taken: Columns that hold something else.
        file: The table, for messages.

    Raises:
        UsageError: If there is no such column, or it is not clear which it is.
    """
    if given is not None:
        return _known(given, columns, "label_column", file)
    left = [column for column in columns if column not in taken]
    named = _of_names(left, _LABEL_COLUMNS)
    if len(named) == 1:
        return named[0]
    if not named and len(left) == 2 and _of_names(left, _PATH_COLUMNS) == [left[0]]:
        return left[1]
    raise UsageError(
        f"data.args.label_column: not given, and it is not clear which column of {file} holds the "
        f"labels; its columns are {', '.join(columns)}"
    )


def _path_column(
    rows: Sequence[TableRow],
    columns: list[str],
    given: str | None,
    taken: set[str | None],
    file: Path,
) -> str:
    if given is not None:
        return _known(given, columns, "path_column", file)
    left = [column for column in columns if column not in taken]
    named = _of_names(left, _PATH_COLUMNS)
    like_images = [c for c in left if all(is_image(Path(str(row[c]))) for row in rows)]
    best = [column for column in named if column in like_images] or like_images or named
    if len(best) != 1:
        raise UsageError(
            f"data.args.path_column: not given, and it is not clear which column of {file} holds "
            f"the paths; its columns are {', '.join(columns)}"
        )
    return best[0]


def _of_names(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    return [column for column in columns if column.strip().lower() in names]


def _known(column: str, columns: list[str], key: str, file: Path) -> str:
    if column not in columns:
        raise unknown_name(f"column of {file.name} (data.args.{key})", str(column), columns)
    return column


def _by_split(rows: list[TableRow], column: str | None, file: Path) -> dict[str, list[TableRow]]:
    """The rows of each split, in the order train, val, test; all are for training without one."""
    if column is None:
        return {"train": rows}
    found: dict[str, list[TableRow]] = {"train": [], "val": [], "test": []}
    for number, row in enumerate(rows, start=1):
        word = str(row[column]).strip()
        if word.lower() not in SPLIT_WORDS:
            raise VitrellisError(
                f"{file}: row {number} of images says {word!r} in column {column!r}; splits are "
                "called train, val (or valid, validation, dev) and test"
            )
        found[SPLIT_WORDS[word.lower()]].append(row)
    return {split: part for split, part in found.items() if part}


def class_names_of(rows: Sequence[TableRow], column: str, file: Path) -> tuple[str, ...]:
    """The different labels: numbers by size, words by their Unicode characters."""
    labels = {field_text(row, column, file) for row in rows}
    if all(_is_whole_number(label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _is_whole_number(label: str) -> bool:
    return label.removeprefix("-").isdecimal() and label.isascii()


def field_text(row: TableRow, column: str, file: Path) -> str:
    """A row's field as text; whole numbers that a table stores as 3.0 are 3."""
    value = row[column]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise VitrellisError(f"{file}: a row has nothing in column {column!r}: {_short(row)}")
    if isinstance(value, list | dict | bytes):
        raise VitrellisError(
            f"{file}: column {column!r} holds a {type(value).__name__} where a word or a number "
            f"is needed: {_short(row)}"
        )
    text = str(value).strip()
    if not text:
        raise VitrellisError(f"{file}: a row has nothing in column {column!r}: {_short(row)}")
    return text


def _short(row: TableRow) -> str:
    return ", ".join(f"{key}={str(value)[:40]}" for key, value in list(row.items())[:5])


def _refuse_repeats(paths: Mapping[str, list[Path]], file: Path) -> None:
    """An image may be named once: in two splits it would be trained on and tested on."""
    first: dict[Path, str] = {}
    for split, part in paths.items():
        for path in part:
            if path in first:
                where = f"both {first[path]} and {split}" if first[path] != split else split
                raise VitrellisError(f"{file}: names {path} twice, for {where}; keep one row")
            first[path] = split


LAYOUTS = {"table": load_table}
RECOGNIZED_BY = {
    "table": lambda root: (
        root.suffix.lower() in TABLE_READERS
        or (root.is_dir() and any(file.suffix.lower() in TABLE_READERS for file in root.iterdir()))
    )
}
