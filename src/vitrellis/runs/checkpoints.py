"""What a run writes while it trains: checkpoints, the model, metrics, TensorBoard events.

Every file is replaced in one move, so that a kill leaves the old one or the new one. Checkpoints
are read with `weights_only`: a payload in one is refused, not executed.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from torch import nn

from vitrellis.errors import VitrellisError
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.directory import RunDirectory


class Store:
    """The files of one run, written by process 0 and read by all.

    Args:
        fabric: Saves and loads, whatever the strategy.
        run: Where.
        export: Writes a model into a folder in timm's local format.
    """

    def __init__(
        self, fabric: Fabric, run: RunDirectory, export: Callable[[nn.Module, Path], None]
    ) -> None:
        self.fabric = fabric
        self.run = run
        self._export = export
        self._logger = TensorBoardLogger(root_dir=run.path, name="tensorboard", version="")

    def save_best(self, model: nn.Module, state: dict[str, Any]) -> None:
        """The model as it is exported, and a checkpoint that training can be resumed from."""
        self._save(self.run.best_checkpoint, state)
        self.export(model, self.run.best_model)

    def save_last(self, state: dict[str, Any]) -> None:
        """The checkpoint that the run continues from."""
        self._save(self.run.last_checkpoint, state)

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes `model` into `folder`, from process 0."""
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
        way_out = f"Delete it to begin anew, or put {self.run.best_checkpoint.name} in its place"
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
        if self.fabric.is_global_zero:
            self.run.truncate_metrics(from_epoch=state["progress"]["epoch"])
        return True

    def log(self, row: dict[str, Any]) -> None:
        """Appends an epoch to `metrics.jsonl` and to TensorBoard."""
        if not self.fabric.is_global_zero:
            return
        self.run.append_metrics(row)
        scalars = {key: value for key, value in row.items() if isinstance(value, int | float)}
        scalars |= {f"parts/{name}": value for name, value in row["parts"].items()}
        scalars |= {f"weights/{name}": value for name, value in row["weights"].items()}
        self._logger.log_metrics(scalars, step=row["step"])
        self._logger.save()

    def close(self) -> None:
        """Flushes the events."""
        if self.fabric.is_global_zero:
            self._logger.finalize("success")

    def describe_last(self) -> str:
        """Where the last checkpoint is and when it was written, for a message."""
        path = self.run.last_checkpoint
        if not path.exists():
            return "none yet"
        written = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        return f"{path} ({written:%H:%M:%S})"

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            atomic_write(path, lambda temporary: self.fabric.save(temporary, state))
        else:
            self.fabric.save(path, state)  # writes nothing here, but all processes take part
