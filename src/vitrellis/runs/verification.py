"""Reads every file of a run, and says which are as they were written."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitrellis.data.formats.json_files import parse_json
from vitrellis.errors import VitrellisError
from vitrellis.models import check_finite_weights, read_state_dict
from vitrellis.models.support.weights import has_checksum
from vitrellis.runs.checksums import (
    LINE_KEY,
    MARKER,
    check_text,
    check_zip,
    has_sealed_json,
    read_sealed_json,
    seal_anew,
)
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.exported import load_exported
from vitrellis.runs.marker import other_files, own_files, read_marker

State = Literal["ok", "unchecked", "damaged", "missing"]


@dataclass(frozen=True)
class Verified:
    """What became of a file.

    Attributes:
        file: Its path in the run.
        state: "ok" if it is as it was written; "unchecked" if it can be read, and an earlier
            version wrote it without a checksum; "damaged" or "missing" otherwise.
        detail: What is wrong with it; empty if nothing is.
    """

    file: str
    state: State
    detail: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it is neither damaged nor missing."""
        return self.state in ("ok", "unchecked")


@dataclass(frozen=True)
class Verification:
    """What became of a run.

    Attributes:
        files: Its files, in order of name.
        others: Whatever else is in its folder.
    """

    files: tuple[Verified, ...]
    others: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing is damaged or missing."""
        return all(file.is_good for file in self.files)


def verify_run(run: RunDirectory) -> Verification:
    """Reads all files of a run.

    Args:
        run: The run.
    """
    own = own_files(run)
    found = [_verified(run, file) for file in own]
    found += [
        Verified(str(file.relative_to(run.path)), "missing", f"{file}: is missing")
        for file in _needed(run)
        if file not in own
    ]
    files = tuple(sorted(found, key=lambda file: file.file))
    return Verification(files, tuple(other_files(run)))


def accept_changes(run: RunDirectory) -> list[str]:
    """Gives files that were changed on purpose the checksums of their present content.

    They are those that people edit: the recipe, JSON, and the log of figures.

    Args:
        run: The run.

    Returns:
        The files that got another checksum, by their paths in the run.

    Raises:
        VitrellisError: If one cannot be read, or is no JSON.
    """
    changed = []
    for file in own_files(run):
        is_text = file == run.recipe_file or file.suffix in (".json", ".jsonl")
        if is_text and not _verified(run, file).is_good and seal_anew(file):
            changed.append(str(file.relative_to(run.path)))
    return changed


def _needed(run: RunDirectory) -> Iterator[Path]:
    """The files without which the run cannot be used."""
    yield run.recipe_file
    yield run.data_file
    if run.results_file.exists():
        yield run.metrics_file
    folders = [run.last_model, run.best_model, run.best_model_without_ema]
    folders += [run.last_model_without_ema, *run.path.glob("teacher*")]
    is_complete = run.results_file.exists() or run.imported_file.exists()
    for number, folder in enumerate(folders):
        if folder.is_dir() or (number < 2 and is_complete):
            yield folder / "config.json"
            yield folder / "model.safetensors"


def _verified(run: RunDirectory, file: Path) -> Verified:
    name = str(file.relative_to(run.path))
    if file.name.endswith(".tmp"):
        return Verified(name, "ok", "left by a process that was killed; the next start deletes it")
    try:
        is_checked = _checker(file)(run, file)
    except VitrellisError as error:
        return Verified(name, "damaged", str(error))
    except OSError as error:
        return Verified(name, "damaged", f"{file}: cannot be read ({error.strerror or error})")
    return Verified(name, "ok" if is_checked else "unchecked")


def _checker(file: Path) -> Callable[[RunDirectory, Path], bool]:
    """The function that reads a file, and says whether it has a checksum."""
    by_name = {
        MARKER: _marker,
        "recipe.yaml": lambda run, file: check_text(file),
        "metrics.jsonl": _metrics,
        "config.json": _model_config,
        "model.safetensors": _weights,
        "data.json": _data,
        "results.json": _results,
    }
    if file.name in by_name:
        return by_name[file.name]
    if file.suffix == ".ckpt":
        return _checkpoint
    return _events if file.parent.name == "tensorboard" else _json


def _marker(run: RunDirectory, file: Path) -> bool:
    read_marker(run)
    return has_sealed_json(file)


def _data(run: RunDirectory, file: Path) -> bool:
    run.read_data()
    return has_sealed_json(file)


def _results(run: RunDirectory, file: Path) -> bool:
    run.read_results()
    return has_sealed_json(file)


def _json(run: RunDirectory, file: Path) -> bool:
    del run
    read_sealed_json(file)
    return has_sealed_json(file)


def _metrics(run: RunDirectory, file: Path) -> bool:
    rows = run.read_metrics()
    if run.results_file.exists():
        epochs = run.read_results().epochs
        if [row.epoch for row in rows] != list(range(epochs)):
            raise VitrellisError(
                f"{file}: damaged: it has {len(rows)} epochs, and the run has {epochs}"
            )
    lines = file.read_text().splitlines()[: len(rows)]
    return all(LINE_KEY in parse_json(line) for line in lines)


def _model_config(run: RunDirectory, file: Path) -> bool:
    del run
    read_sealed_json(file)
    is_sealed = has_sealed_json(file)
    if not is_sealed and (file.parent / "model.safetensors").exists():
        load_exported(file.parent)
    return is_sealed


def _weights(run: RunDirectory, file: Path) -> bool:
    del run
    check_finite_weights(read_state_dict(file), str(file))
    is_checked = has_checksum(file)
    config = file.with_name("config.json")
    if not is_checked and config.is_file() and has_sealed_json(config):
        raise VitrellisError(
            f"{file}: has no checksum, as {config.name} beside it has: another program wrote it "
            "later. Restore it from a copy, or train it again"
        )
    return is_checked


def _checkpoint(run: RunDirectory, file: Path) -> bool:
    del run
    if check_zip(file):
        return True
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise VitrellisError(f"{file}: damaged: {error}") from error
    if wrong is not None:
        raise VitrellisError(f"{file}: damaged: {wrong} has another checksum")
    return False


def _events(run: RunDirectory, file: Path) -> bool:
    """Checks the two CRCs of each event; a last one that was cut short is what a kill leaves."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    del run
    content = file.read_bytes()
    at = 0
    while at + 12 <= len(content):
        header, (crc,) = content[at : at + 8], struct.unpack_from("<I", content, at + 8)
        (length,) = struct.unpack("<Q", header)
        event = content[at + 12 : at + 12 + length]
        if masked_crc32c(header) != crc:
            raise VitrellisError(f"{file}: damaged at byte {at}")
        end = at + 12 + length
        if end + 4 > len(content):
            break
        if struct.unpack_from("<I", content, end)[0] != masked_crc32c(event):
            raise VitrellisError(f"{file}: damaged in the event at byte {at}")
        at = end + 4
    return True
