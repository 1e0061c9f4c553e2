"""The files that a run writes while it trains: checkpoints, models, metrics, TensorBoard events.

Every file is replaced in one move, so that a kill leaves the old one or the new one. Checkpoints
are read with `weights_only`: a payload in one is refused, not executed.
"""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from vitrellis.errors import VitrellisError
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.checksums import check_zip, seal_zip
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.events import Events
from vitrellis.runs.results import EpochRow

logger = logging.getLogger("vitrellis")


class CheckpointsInPlace(TorchCheckpointIO):
    """Writes a checkpoint at its path. Lightning writes it into the system's temporary folder."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: object | None = None,
    ) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: The state.
            path: The file.
            storage_options: Not used.
        """
        assert storage_options is None
        torch.save(checkpoint, path)


class RunWriter:
    """Writes the files of one run, from process 0; all processes read them.

    Args:
        fabric: Saves and loads checkpoints under any strategy.
        run: The run directory.
        export: Writes a model into a folder in timm's local format.
    """

    def __init__(
        self, fabric: Fabric, run: RunDirectory, export: Callable[[nn.Module, Path], None]
    ) -> None:
        self.fabric = fabric
        self.run = run
        self._export = export
        self._events = Events(run.path / "tensorboard")
        self._folder = _number_of(run.path)
        self._is_marked = run.marker_file.exists()

    def check_still_there(self) -> None:
        """Makes sure that the run was not deleted, so that nothing is written where it was.

        Raises:
            VitrellisError: If it was deleted, moved or emptied.
        """
        if not self.fabric.is_global_zero:
            return
        is_same = self._folder is None or _number_of(self.run.path) == self._folder
        if not is_same or (self._is_marked and not self.run.marker_file.exists()):
            raise VitrellisError(
                f"{self.run.path}: was deleted or moved while it was trained, so the training "
                "ended. The same command begins it anew; a run that was moved is resumed from its "
                "last checkpoint with --out and its new place"
            )

    def save_best(self, student: nn.Module, ema: nn.Module | None, state: dict[str, Any]) -> None:
        """Exports the model of the best epoch, and writes the checkpoint of that moment.

        Args:
            student: The student.
            ema: The moving average of its weights, which is then the model; None if none is kept.
            state: The state of the run.
        """
        self._save(self.run.best_checkpoint, state)
        if ema is not None:
            self.export(student, self.run.best_model_without_ema)
        self.export(student if ema is None else ema, self.run.best_model)

    def save_last_model(self, student: nn.Module, ema: nn.Module | None, *, is_best: bool) -> None:
        """Exports the model of the last epoch.

        Args:
            student: The student.
            ema: The moving average of its weights, which is then the model; None if none is kept.
            is_best: Whether it is the best one as well, because none was chosen.
        """
        if ema is not None:
            self.export(student, self.run.last_model_without_ema)
            if is_best:
                self.export(student, self.run.best_model_without_ema)
        self.export(student if ema is None else ema, self.run.last_model)
        if is_best:
            self.export(student if ema is None else ema, self.run.best_model)

    def save_last(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint that the run is resumed from."""
        self._save(self.run.last_checkpoint, state)

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes `model` into `folder`, from process 0."""
        self.check_still_there()
        if self.fabric.is_global_zero:
            self._export(model, folder)

    def load_last(self, state: dict[str, Any]) -> bool:
        """Restores `state` in place from the last checkpoint; False if there is none.

        Raises:
            VitrellisError: If the file is damaged, or belongs to another model.
        """
        path = self.run.last_checkpoint
        if not path.exists():
            return False
        way_out = f"Delete it to start again, or put {self.run.best_checkpoint.name} in its place"
        try:
            check_zip(path)
        except VitrellisError as error:
            raise VitrellisError(f"{error}. {way_out}") from error
        try:
            self.fabric.load(path, state, weights_only=True)
        except (EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            raise VitrellisError(
                f"{path}: not a readable checkpoint ({error}). {way_out}"
            ) from error
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise VitrellisError(
                f"{path}: damaged, or the checkpoint of another model ({reason}). {way_out}"
            ) from error
        return True

    def forget_epochs(self, from_epoch: int) -> None:
        """Drops from `metrics.jsonl` the epochs that will be done again.

        Args:
            from_epoch: The first of them, 0-based.
        """
        if self.fabric.is_global_zero:
            self.run.truncate_metrics(from_epoch)

    def log(self, row: EpochRow) -> None:
        """Appends an epoch to `metrics.jsonl` and to TensorBoard."""
        if not self.fabric.is_global_zero:
            return
        self.check_still_there()
        self.run.append_metrics(row)
        figures = row.to_json()
        scalars = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        scalars |= {f"parts/{name}": value for name, value in row.parts.items()}
        scalars |= {f"weights/{name}": value for name, value in row.weights.items()}
        try:
            self._events.write(scalars, row.step)
        except OSError as error:
            logger.warning(
                "note: %s: could not be written: %s. The training goes on; the figures of epoch %d "
                "are in %s alone",
                self._events.file,
                error.strerror,
                row.epoch + 1,
                self.run.metrics_file.name,
            )

    def describe_last(self) -> str:
        """The path and the time of the newest checkpoint, for a message."""
        candidates = (self.run.last_checkpoint, self.run.best_checkpoint)
        existing = [path for path in candidates if path.exists()]
        if not existing:
            return "none yet"
        path = max(existing, key=lambda path: path.stat().st_mtime_ns)
        written = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        return f"{path} ({written:%H:%M:%S})"

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        def write(temporary: Path) -> None:
            self.fabric.save(temporary, state)
            seal_zip(temporary)

        self.check_still_there()
        if self.fabric.is_global_zero:
            atomic_write(path, write)
        else:
            self.fabric.save(path, state)  # writes nothing here, but all processes take part


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of a run holds, on the CPU: `guided`, `optimizer`, `progress` and others.

    Args:
        path: `RunDirectory.best_checkpoint` or `last_checkpoint`.

    Raises:
        VitrellisError: If it is missing or damaged.
    """
    if not path.exists():
        raise VitrellisError(
            f"{path}: does not exist. A run writes it when it is trained; one that was imported "
            "has none"
        )
    check_zip(path)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise VitrellisError(f"{path}: not a readable checkpoint ({error})") from error
    return content


def _number_of(folder: Path) -> tuple[int, int] | None:
    """The device and the number by which the system knows a folder; None if it is not there."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
