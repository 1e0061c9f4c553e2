"""Arrow and Parquet files, as Hugging Face's `datasets` writes them: columns, and single cells.

Arrow files are mapped into memory; of Parquet files the last row groups that were used are kept.
pyarrow executes nothing of a file: it creates extension types only from Arrow's own registry.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitrellis.errors import VitrellisError

_GROUPS_KEPT = 2  # row groups, which may have hundreds of megabytes each


def import_pyarrow(path: Path) -> Any:
    """The package `pyarrow`.

    Raises:
        VitrellisError: If it is not installed, naming the file that needs it.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise VitrellisError(f"{path}: needs the package pyarrow: pip install 'vitrellis[arrow]'")
    import pyarrow

    return pyarrow


class ArrowFile:
    """A file of rows: an Arrow stream, an Arrow file, or a Parquet file.

    It is opened in each process for itself.

    Args:
        path: The file.

    Raises:
        VitrellisError: If pyarrow is missing, or the file is, or is damaged or cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_parquet = path.suffix.lower() == ".parquet"
        self._opened: Any = None
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._open()

    @property
    def schema(self) -> Any:
        """The names and types of the columns: a `pyarrow.Schema`."""
        return self._open().schema_arrow if self.is_parquet else self._open().schema

    def features(self) -> dict[str, Any]:
        """What `datasets` says about each column in the file's own metadata; empty if nothing."""
        content = (self.schema.metadata or {}).get(b"huggingface")
        if content is None:
            return {}
        try:
            features = json.loads(content)["info"]["features"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}
        return features if isinstance(features, dict) else {}

    def column(self, name: str) -> list[Any]:
        """The values of a column.

        Raises:
            VitrellisError: If the file is damaged.
        """
        pyarrow = import_pyarrow(self.path)
        try:
            opened = self._open()
            table = opened.read(columns=[name]) if self.is_parquet else opened
            values: list[Any] = table.column(name).to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from None
        return values

    def places(self) -> Iterator[tuple[int, int]]:
        """The row group, and the number of the row in it, of every row."""
        opened = self._open()
        if self.is_parquet:
            metadata = opened.metadata
            lengths = [metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
        else:
            lengths = [batch.num_rows for batch in opened.to_batches()]
        for group, length in enumerate(lengths):
            for row in range(length):
                yield group, row

    def cell(self, column: str, group: int, row: int) -> Any:
        """One value.

        Raises:
            VitrellisError: If the file is damaged.
        """
        pyarrow = import_pyarrow(self.path)
        try:
            if self.is_parquet:
                return self._group(column, group)[row].as_py()
            return self._open().column(column).chunk(group)[row].as_py()
        except (pyarrow.ArrowException, OSError, ValueError, IndexError, KeyError) as error:
            raise self._damaged(error) from None

    def _group(self, column: str, group: int) -> Any:
        """A column of a row group of a Parquet file."""
        with self._lock:
            known = self._groups.get((column, group))
            if known is None:
                known = self._open().read_row_group(group, columns=[column]).column(column)
                self._groups[column, group] = known
                while len(self._groups) > _GROUPS_KEPT:
                    self._groups.popitem(last=False)
            else:
                self._groups.move_to_end((column, group))
            return known

    def _open(self) -> Any:
        if self._opened is not None:
            return self._opened
        pyarrow = import_pyarrow(self.path)
        try:
            self._opened = self._parquet() if self.is_parquet else self._arrow(pyarrow)
        except FileNotFoundError:
            raise VitrellisError(f"{self.path}: no such file") from None
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from None
        return self._opened

    def _parquet(self) -> Any:
        from pyarrow import parquet

        return parquet.ParquetFile(self.path)

    def _arrow(self, pyarrow: Any) -> Any:
        source = pyarrow.memory_map(str(self.path))
        try:
            table = pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(pyarrow.memory_map(str(self.path))).read_all()
        table.validate(full=True)  # a damaged offset would be followed out of the file
        return table

    def _damaged(self, error: Exception) -> VitrellisError:
        kind = "Parquet" if self.is_parquet else "Arrow"
        reason = " ".join(str(error).split())
        return VitrellisError(f"{self.path}: is no {kind} file, or damaged or cut off ({reason})")

    def __reduce__(self) -> tuple[type[ArrowFile], tuple[Path]]:
        return ArrowFile, (self.path,)  # another process opens it anew


class ArrowImages:
    """Encoded images in one column of several files.

    Args:
        files: The files.
        column: The column, whose values are bytes, or structs with `bytes`.
    """

    def __init__(self, files: Sequence[ArrowFile], column: str) -> None:
        self._files = tuple(files)
        self.column = column

    def keys(self) -> list[str]:
        """The key of each image, in the order of the files and rows."""
        return [
            f"{number}:{group}:{row}"
            for number, file in enumerate(self._files)
            for group, row in file.places()
        ]

    def files(self) -> list[Path]:
        """The files."""
        return [file.path for file in self._files]

    def read(self, key: str) -> bytes:
        """The bytes of the image of a key.

        Raises:
            VitrellisError: If there are none, or the file is damaged.
        """
        number, group, row = map(int, key.split(":"))
        file = self._files[number]
        value = file.cell(self.column, group, row)
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
        path = value.get("path") if isinstance(value, dict) else None
        where = f"{file.path}: row {row} of group {group}"
        if path is None:
            raise VitrellisError(f"{where}: holds no image in column {self.column!r}")
        raise VitrellisError(
            f"{where}: only names the file {path!r}, and holds no image; save the dataset with "
            "save_to_disk, which puts the images into it"
        )
