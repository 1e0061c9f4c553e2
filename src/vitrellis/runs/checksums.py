"""Checksums of the files that a run reads back. Each is in the file itself, which can be moved.

JSON has a key for it, YAML a last line that is a comment, a line of `metrics.jsonl` a CRC, and a
checkpoint, which is a zip archive, the archive's comment. Weights have theirs in the metadata of
safetensors (`vitrellis.models.support.weights`). Runs of earlier versions have none, and are read.
They have no marker either: in a run with one, a file without a checksum is a damaged one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrellis.data.formats import read_file
from vitrellis.data.formats.json_files import parse_json, read_json
from vitrellis.errors import VitrellisError
from vitrellis.runs.atomic import as_json, atomic_write, write_json

KEY = "sha256"
"""The key of the checksum in a JSON file."""

LINE_KEY = "crc32"
"""The key of the checksum in a line of `metrics.jsonl`."""

MARKER = "vitrellis-run.json"
"""The name of the file in a run's folder that says that it is a run."""

_COMMENT = "# sha256 "
_END_OF_ZIP = b"PK\x05\x06"
_END_LENGTH = 22
_SEAL = b"sha256 "
_SEAL_LENGTH = len(_SEAL) + 64


def write_sealed_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes values as JSON with their checksum, whole or not at all.

    Args:
        path: The file. Missing folders are made.
        values: Dictionaries, lists, strings and numbers, without the key `sha256`.

    Raises:
        VitrellisError: For the reasons of `write_json`.
    """
    plain = json.loads(as_json(values, str(path)))
    write_json(path, {**values, KEY: _digest_of_values(plain)})


def marked_run(path: Path) -> Path | None:
    """The run with a marker that a file belongs to, all of whose files have checksums.

    Args:
        path: A file in the run's folder, or in a folder in it.

    Returns:
        None without a marker, or if it says that an earlier version began the run.
    """
    for folder in (path.parent, path.parent.parent):
        if (folder / MARKER).is_file():
            with contextlib.suppress(VitrellisError):  # a damaged one excuses nothing
                marker = read_json(folder / MARKER)
                if isinstance(marker, dict) and marker.get("has_checksums") is False:
                    return None
            return folder
    return None


def read_sealed_json(path: Path, *, is_sealed: bool = False) -> Any:
    """The content of a JSON file, without its checksum.

    Args:
        path: The file.
        is_sealed: Whether it must have a checksum, wherever it is.

    Raises:
        VitrellisError: If the file is missing or damaged, or the checksum is of another content.
    """
    values = read_json(path)
    if not isinstance(values, dict) or KEY not in values:
        if is_sealed or marked_run(path) is not None:
            raise _has_none(path)
        return values
    stored = values.pop(KEY)
    if stored != _digest_of_values(values):
        raise _is_other(path, f"delete its key {KEY!r}")
    return values


def _has_none(path: Path) -> VitrellisError:
    return VitrellisError(
        f"{path}: damaged: it has lost the checksum that it was written with. {_way_out(path, '')}"
    )


def _is_other(path: Path, otherwise: str) -> VitrellisError:
    return VitrellisError(
        f"{path}: damaged: its content is not what was written (another checksum). "
        f"{_way_out(path, otherwise)}"
    )


def _way_out(path: Path, otherwise: str) -> str:
    """What can be done, by a command if the file is in a run, or else by hand."""
    run = marked_run(path)
    accept = f"vitrellis verify {run} --accept takes it as it is" if run else otherwise
    on_purpose = f"; if it was changed on purpose, {accept}" if accept else ""
    return f"Restore it from a copy{on_purpose}"


def has_sealed_json(path: Path) -> bool:
    """Whether a JSON file has a checksum.

    Raises:
        VitrellisError: If the file is missing or damaged.
    """
    values = read_json(path)
    return isinstance(values, dict) and KEY in values


def sealed_line(values: Mapping[str, Any], label: str) -> str:
    """Values as a line of JSON with their checksum, without the line break.

    Args:
        values: The content of the line.
        label: The file, for the message.

    Raises:
        VitrellisError: If a number is NaN or infinite, naming its key.
    """
    plain = json.loads(as_json(values, label))
    return as_json({**values, LINE_KEY: _crc_of_values(plain)}, label)


def unsealed_line(values: Any, *, is_sealed: bool = False) -> Any:
    """The content of a line without its checksum.

    Args:
        values: The value of the line.
        is_sealed: Whether it must have one.

    Raises:
        VitrellisError: If the checksum is missing, or of another content.
    """
    if not isinstance(values, dict) or LINE_KEY not in values:
        if is_sealed:
            raise VitrellisError("it has lost the checksum that it was written with")
        return values
    rest = {key: value for key, value in values.items() if key != LINE_KEY}
    if values[LINE_KEY] != _crc_of_values(rest):
        raise VitrellisError("its content is not what was written: another checksum")
    return rest


def write_sealed_text(path: Path, text: str) -> None:
    """Writes a text in which `#` begins a comment, with its checksum in a last line.

    Args:
        path: The file. Missing folders are made.
        text: The content, which ends with a line break.

    Raises:
        VitrellisError: For the reasons of `atomic_write`.
    """
    sealed = f"{text}{_COMMENT}{hashlib.sha256(text.encode()).hexdigest()}\n"
    atomic_write(path, lambda temporary: temporary.write_bytes(sealed.encode()))


def check_text(path: Path) -> bool:
    """Makes sure that a text is what `write_sealed_text` wrote.

    Returns:
        Whether it has a checksum.

    Raises:
        VitrellisError: If the file cannot be read, or the checksum is of another content.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VitrellisError(f"{path}: cannot be read ({error.strerror})") from error
    text, found, last = content.rpartition(_COMMENT.encode())
    if not found:
        if marked_run(path) is not None:
            raise _has_none(path)
        return False
    if last.strip().decode(errors="replace") != hashlib.sha256(text).hexdigest():
        raise _is_other(path, "delete its last line")
    return True


def seal_anew(path: Path) -> bool:
    """Gives a file that was changed on purpose the checksum of its present content.

    Args:
        path: A JSON file, a recipe or `metrics.jsonl`.

    Returns:
        Whether its checksum was missing, or of another content.

    Raises:
        VitrellisError: If it cannot be read, or is no JSON.
    """
    if path.suffix == ".jsonl":
        return _seal_lines_anew(path)
    if path.suffix == ".json":
        values = read_json(path)
        if not isinstance(values, dict):
            raise VitrellisError(f"{path}: should be a mapping, in {{}}")
        stored = values.pop(KEY, None)
        is_other = stored != _digest_of_values(values)
        if is_other:
            write_sealed_json(path, values)
        return is_other
    try:
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        raise VitrellisError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise VitrellisError(f"{path}: is not UTF-8 ({error.reason})") from error
    # what stands behind the checksum is kept as well
    kept = [line for line in before.split("\n") if not line.startswith(_COMMENT)]
    write_sealed_text(path, "\n".join(kept).rstrip("\n") + "\n")
    return path.read_text(encoding="utf-8") != before


def _seal_lines_anew(path: Path) -> bool:
    lines = read_file(path).decode(errors="replace").splitlines()
    try:
        values = [parse_json(line) for line in lines]
    except json.JSONDecodeError as error:
        raise VitrellisError(f"{path}: a line is not JSON ({error})") from error
    if not all(isinstance(row, dict) for row in values):
        raise VitrellisError(f"{path}: every line should be a mapping, in {{}}")
    plain = [{key: each for key, each in row.items() if key != LINE_KEY} for row in values]
    sealed = [sealed_line(row, str(path)) for row in plain]
    if sealed == lines:
        return False
    atomic_write(path, lambda temporary: temporary.write_text("".join(f"{s}\n" for s in sealed)))
    return True


def seal_zip(path: Path) -> None:
    """Adds a checksum of all its bytes to a zip archive, as the archive's comment.

    Args:
        path: An archive without a comment, such as `torch.save` writes.
    """
    with path.open("r+b") as file:
        file.seek(-_END_LENGTH, 2)
        end = file.read()
        assert end.startswith(_END_OF_ZIP), "no zip archive, or one with a comment"
        assert end.endswith(b"\0\0"), "a zip archive with a comment"
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(-2, 2)
        file.write(struct.pack("<H", _SEAL_LENGTH) + _SEAL + digest.encode())


def check_zip(path: Path) -> bool:
    """Makes sure that an archive is what `seal_zip` sealed.

    Returns:
        Whether it has a checksum.

    Raises:
        OSError: If it cannot be read.
        VitrellisError: If the checksum is of other bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _SEAL_LENGTH))
        seal = file.read()
        if size < _SEAL_LENGTH + _END_LENGTH or not seal.startswith(_SEAL):
            if marked_run(path) is not None:
                raise VitrellisError(
                    f"{path}: damaged: it has lost the checksum that it was written with"
                )
            return False
        digest = hashlib.sha256()
        file.seek(0)
        left = size - _SEAL_LENGTH - 2
        while left > 0:
            part = file.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
        digest.update(b"\0\0")
        if file.read(2) != struct.pack("<H", _SEAL_LENGTH):
            raise VitrellisError(f"{path}: damaged: the end of the archive was changed")
    if seal.removeprefix(_SEAL).decode(errors="replace") != digest.hexdigest():
        raise VitrellisError(f"{path}: damaged: its bytes are not those that were written")
    return True


def _digest_of_values(values: object) -> str:
    return hashlib.sha256(_plain(values)).hexdigest()


def _crc_of_values(values: object) -> str:
    return f"{zlib.crc32(_plain(values)):08x}"


def _plain(values: object) -> bytes:
    """The same bytes for equal JSON values, whatever the order of their keys."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
