"""A run directory: where its files are, and its log of figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from vitrellis.data.formats.json_files import parse_json
from vitrellis.data.source import CheckedImages
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.checksums import (
    MARKER,
    check_text,
    marked_run,
    read_sealed_json,
    sealed_line,
    unsealed_line,
    write_sealed_json,
)
from vitrellis.runs.results import EpochRow, Results, RunData, parse


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def marker_file(self) -> Path:
        """The file that says that this folder is a run; see `vitrellis.runs.marker`."""
        return self.path / MARKER

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def data_file(self) -> Path:
        """Classes, counts and a fingerprint of the images."""
        return self.path / "data.json"

    @property
    def metrics_file(self) -> Path:
        """A line for each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def results_file(self) -> Path:
        """The final figures; exists once the run is complete."""
        return self.path / "results.json"

    @property
    def imported_file(self) -> Path:
        """The origin of the weights; exists if they were not trained here."""
        return self.path / "imported.json"

    @property
    def description_file(self) -> Path:
        """What the `config.json` of a folder or of the Hub says of the student's model."""
        return self.path / "model-description.json"

    @property
    def provenance_file(self) -> Path:
        """When, where and by what the run was started; see `vitrellis.runs.provenance`."""
        return self.path / "provenance.json"

    @property
    def lock_file(self) -> Path:
        """The file that a process locks while it trains here."""
        return self.path / ".lock"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that training is resumed from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The state after the best epoch."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def best_model(self) -> Path:
        """The model of the best epoch, in timm's local format."""
        return self.path / "model"

    @property
    def last_model(self) -> Path:
        """The model of the last epoch, in timm's local format."""
        return self.path / "last"

    @property
    def best_model_without_ema(self) -> Path:
        """The weights of the best epoch, where `best_model` is their moving average."""
        return self.path / "model-without-ema"

    @property
    def last_model_without_ema(self) -> Path:
        """The weights of the last epoch, where `last_model` is their moving average."""
        return self.path / "last-without-ema"

    def model_folder(self, weights: Literal["best", "last"], *, without_ema: bool) -> Path:
        """The folder of a model.

        Args:
            weights: The best or the last epoch.
            without_ema: Whether to take the weights in place of their moving average.

        Raises:
            UsageError: If the run keeps no moving average.
        """
        if not without_ema:
            return self.best_model if weights == "best" else self.last_model
        folder = self.best_model_without_ema if weights == "best" else self.last_model_without_ema
        if not folder.exists():
            raise UsageError(
                f"{self.path}: has no {folder.name}, as a run has with training.ema; leave out "
                "--without-ema"
            )
        return folder

    def teacher_model(self, name: str) -> Path:
        """A copy of a teacher, in timm's local format.

        Args:
            name: The name of the teacher; "teacher" if there is only one.
        """
        return self.path / ("teacher" if name == "teacher" else f"teacher-{name}")

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.recipe_file.exists()

    def has_progress(self) -> bool:
        """Whether anything was trained or imported here that a new start would lose."""
        files = (
            self.last_checkpoint,
            self.best_checkpoint,
            self.metrics_file,
            self.results_file,
            self.imported_file,
            self.best_model / "config.json",
        )
        return any(file.exists() for file in files)

    def append_metrics(self, row: EpochRow) -> None:
        """Adds an epoch to the log.

        Args:
            row: The figures of the epoch. `truncate_metrics` has dropped those of earlier attempts.

        Raises:
            VitrellisError: If it cannot be written, or a figure is NaN or infinite.
        """
        line = sealed_line(row.to_json(), str(self.metrics_file)) + "\n"
        try:
            with self.metrics_file.open("a") as file:
                file.write(line)
        except OSError as error:
            raise VitrellisError(
                f"could not write {self.metrics_file}: {error.strerror}"
            ) from error

    def read_metrics(self) -> list[EpochRow]:
        """The epochs in the log. A last line that a kill cut short is left out.

        Raises:
            VitrellisError: If another line is damaged.
        """
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(errors="replace").split("\n")
        is_sealed = marked_run(self.metrics_file) is not None
        rows = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                values = unsealed_line(parse_json(line), is_sealed=is_sealed)
                rows.append(parse(EpochRow, values, self.metrics_file))
            except (json.JSONDecodeError, VitrellisError) as error:
                raise VitrellisError(
                    f"{self.metrics_file}: line {number} is damaged ({error}). Delete that line"
                ) from error
        return rows

    def truncate_metrics(self, from_epoch: int) -> None:
        """Drops epochs that will be done again, and a last line that a kill cut short.

        Args:
            from_epoch: The first of them, 0-based.
        """
        if self.metrics_file.exists():
            kept = [row.to_json() for row in self.read_metrics() if row.epoch < from_epoch]
            text = "".join(sealed_line(row, str(self.metrics_file)) + "\n" for row in kept)
            atomic_write(self.metrics_file, lambda path: path.write_text(text))

    def write_results(self, results: Results) -> None:
        """Writes the final figures: the run is complete."""
        write_sealed_json(self.results_file, results.to_json())

    def read_results(self) -> Results:
        """The final figures.

        Raises:
            VitrellisError: If the run is not complete, or the file is damaged.
        """
        if not self.results_file.exists():
            raise VitrellisError(f"{self.path}: the run is not complete, it has no results yet")
        return Results.from_json(read_sealed_json(self.results_file), self.results_file)

    def write_data(self, data: RunData) -> None:
        """Writes the facts about the images."""
        write_sealed_json(self.data_file, asdict(data))

    def read_data(self) -> RunData:
        """The facts about the images.

        Raises:
            VitrellisError: If the file is missing or damaged.
        """
        return parse(RunData, read_sealed_json(self.data_file), self.data_file)

    def checked_images(self) -> CheckedImages | None:
        """The check for images that cannot be read; None without one, or without a run.

        Raises:
            VitrellisError: If the file is damaged.
        """
        return self.read_data().checked_images if self.data_file.is_file() else None


def find_run(path: Path, *, checks_recipe: bool = True) -> RunDirectory:
    """The run in a directory.

    Args:
        path: The directory.
        checks_recipe: Whether to refuse a run whose recipe is damaged.

    Raises:
        VitrellisError: If there is none; runs nearby are listed. If its recipe is damaged.
    """
    path = path.expanduser()
    run = RunDirectory(path)
    if _is_run(run):
        if checks_recipe:
            check_text(run.recipe_file)
        return run
    near = _runs_near(path)
    hint = (
        f"Runs there are: {', '.join(near)}"
        if near
        else "There are no runs below it, and none in ./runs"
    )
    lacks = "data.json" if run.exists() else "recipe.yaml"
    what = f"is no run directory (it has no {lacks})" if path.exists() else "does not exist"
    raise VitrellisError(f"{path} {what}. {hint}")


def _is_run(run: RunDirectory) -> bool:
    """Whether it has the files of a run; a recipe alone may be anybody's."""
    return run.exists() and (run.marker_file.is_file() or run.data_file.is_file())


def _runs_near(path: Path) -> list[str]:
    """Up to five runs: the one that `path` is a part of, or those below it, or below ./runs."""
    for parent in path.parents:
        if _is_run(RunDirectory(parent)):
            return [str(parent)]
    for folder in (path, Path("runs")):
        recipes = folder.glob("**/recipe.yaml")
        found = sorted(file.parent for file in recipes if _is_run(RunDirectory(file.parent)))
        if found:
            more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
            return [*map(str, found[:5]), *more]
    return []
