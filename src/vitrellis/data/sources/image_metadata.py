"""Folders of images with `metadata.csv`, `.jsonl` or `.parquet`, as Hugging Face's `imagefolder`.

https://huggingface.co/docs/datasets/image_dataset. The column `file_name` holds each image's path
below the folder of the metadata file. There is one such file for all images, whose first folder
then tells the split, or one in the folder of each split.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import torch

from vitrellis.data.formats.tables import TableRow, read_table
from vitrellis.data.source import Source
from vitrellis.data.sources.files import (
    file_splits,
    path_below,
    visible,
)
from vitrellis.data.sources.names_in_files import SPLIT_WORDS
from vitrellis.data.sources.table import class_names_of, field_text, label_column_of
from vitrellis.errors import VitrellisError

_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_PATH_COLUMN = "file_name"


def metadata_files(folder: Path) -> dict[str | None, Path]:
    """The metadata file of each split, or one for all under None; empty if there are none.

    Args:
        folder: The root of a dataset.
    """
    for name in _NAMES:
        if (folder / name).is_file():
            return {None: folder / name}
    found: dict[str | None, Path] = {}
    for entry in visible(folder):
        split = SPLIT_WORDS.get(entry.name.lower())
        for name in _NAMES:
            if split is not None and (entry / name).is_file():
                found.setdefault(split, entry / name)
    return found


def load_image_metadata(folder: Path, channels: int | None, *, label_column: str | None) -> Source:
    """The images that metadata files name.

    Args:
        folder: The root of the dataset, which has metadata files.
        channels: 1 or 3 to make all images grey or colour; None chooses grey if all are.
        label_column: The column of labels, if it has none of the usual names.

    Raises:
        UsageError: If the column of labels has to be named.
        VitrellisError: If a file is missing or damaged, or an image is named twice.
    """
    files = metadata_files(folder)
    rows: dict[str, list[TableRow]] = {}
    paths: dict[str, list[Path]] = {}
    label_at = ""
    for split, file in files.items():
        table = read_table(file)
        if _PATH_COLUMN not in table[0]:
            raise VitrellisError(
                f"{file}: has no column {_PATH_COLUMN!r}; it has {', '.join(table[0])}"
            )
        label_at = label_column_of(list(table[0]), label_column, {_PATH_COLUMN}, file)
        for row in table:
            path = path_below(file.parent, field_text(row, _PATH_COLUMN, file), file)
            first = PurePosixPath(path).parts[0].lower()
            goal = split or SPLIT_WORDS.get(first, "train")
            rows.setdefault(goal, []).append(row)
            paths.setdefault(goal, []).append(file.parent / path)
    where = next(iter(files.values()))
    _refuse_repeats([path for part in paths.values() for path in part], where)
    class_names = class_names_of([row for part in rows.values() for row in part], label_at, where)
    number = {name: index for index, name in enumerate(class_names)}
    labels = {
        goal: torch.tensor(
            [number[field_text(row, label_at, where)] for row in part], dtype=torch.int64
        )
        for goal, part in rows.items()
    }
    splits = file_splits(folder, paths, labels, channels)
    if "train" not in splits:
        raise VitrellisError(f"{where}: names no training images, only {', '.join(splits)}")
    note = f"{where.name}: labels in {label_at!r}"
    return Source(
        "huggingface",
        class_names,
        splits["train"],
        splits.get("val"),
        splits.get("test"),
        notes=(note,),
    ).checked()


def _refuse_repeats(paths: list[Path], file: Path) -> None:
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise VitrellisError(f"{file}: names {twice[0]} twice; keep one row")
