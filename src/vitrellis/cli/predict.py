"""`vitrellis predict`: the likeliest classes of images."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.image_files import image_files
from vitrellis.cli.shared_options import (
    DeviceOption,
    JsonOption,
    PrecisionOption,
    WeightsOption,
    WithoutEmaOption,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vitrellis.analysis.inference import Gather
    from vitrellis.assembly.build import Place
    from vitrellis.errors import VitrellisError
    from vitrellis.runs.exported import Preprocessing


@dataclass(frozen=True)
class _Model:
    """A model of a run, or an exported one."""

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    predict_resized: Callable[[Tensor, list[str]], Tensor]


@dataclass(frozen=True)
class _Prediction:
    """A class of an image, and its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class _Row:
    """An image file, and its likeliest classes."""

    file: str
    predictions: list[_Prediction]

    def to_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "predictions": [
                {"class": guess.name, "probability": guess.probability}
                for guess in self.predictions
            ],
        }


_Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory, or a file from `export`: FILE.onnx."),
]


def predict(
    run: _Run,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Files, folders, or - for a list on stdin."),
    ],
    top: Annotated[int, typer.Option(min=1, help="The number of classes for each image.")] = 1,
    weights: WeightsOption = "best",
    without_ema: WithoutEmaOption = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 64,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    quiet: Quiet = False,
) -> None:
    """Predict the classes of images, with the preprocessing that the run was trained with.

    A file from `vitrellis export` is run by onnxruntime, on the CPU.

    An image that cannot be read is named on standard error; the others are predicted all the
    same, and the exit code is 1. Under torchrun or srun, each process predicts a part of the
    images, and the first prints the classes of all.

    Examples:
      vitrellis predict runs/photos a.jpg b.png
      vitrellis predict runs/photos new-photos/ --top 3
      vitrellis predict runs/photos/model.onnx a.jpg
      find . -name "*.jpg" | vitrellis predict runs/photos - --csv > labels.csv
    """
    from vitrellis.analysis.cost import arithmetic
    from vitrellis.assembly.processes import evaluation_processes
    from vitrellis.cli.console import fail, progress_console
    from vitrellis.errors import UsageError, VitrellisError
    from vitrellis.training.display import reading
    from vitrellis.training.gathering import failing_together

    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    is_onnx = run.suffix.lower() == ".onnx"
    if is_onnx and (device not in ("auto", "cpu") or precision != "float32"):
        raise UsageError(
            f"{run}: is run on the CPU, in the precision that it was exported in; leave out "
            "--device and --precision"
        )
    place, gather = evaluation_processes(device)
    with failing_together(gather):
        if is_onnx:
            model = _onnx_model(run)
        else:
            model = _trained_model(run, weights, place.device, without_ema=without_ema)
    top = min(top, len(model.class_names))
    files = _part(paths, place, gather)
    rows: list[_Row] = []
    errors: list[VitrellisError] = []
    with (
        arithmetic(place.device, precision),
        reading(progress_console(quiet=quiet), "images") as progress,
    ):
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            rows += _predict(model, part, top, errors)
            progress(start + len(part), len(files))
    gathered = gather((rows, [str(error) for error in errors]))
    rows = [row for part, _ in gathered for row in part]
    texts = [text for _, part in gathered for text in part]
    if place.rank == 0:
        _print_rows(rows, top, "json" if as_json else "csv" if as_csv else "table")
        for text in texts:
            fail(VitrellisError(text))
    if texts:
        raise typer.Exit(VitrellisError.exit_code)


def _print_rows(rows: Sequence[_Row], top: int, form: Literal["json", "csv", "table"]) -> None:
    from vitrellis.cli.console import print_json

    if form == "json":
        print_json([row.to_json() for row in rows])
    elif form == "csv":
        _print_csv(rows)
    elif rows:
        _print_table(rows, top)


def _part(paths: list[str], place: Place, gather: Gather) -> list[Path]:
    """This process's part of the files, which the first one lists: standard input is read once."""
    from vitrellis.errors import VitrellisError

    files: list[Path] = []
    error = None
    try:
        if place.rank == 0:
            files = image_files(paths)
    except VitrellisError as raised:
        error = raised
    files, failed = gather((files, None if error is None else str(error)))[0]
    if failed is not None:
        shared = error or VitrellisError(failed)
        shared.is_shared = True
        raise shared
    first, last = (len(files) * rank // place.world_size for rank in (place.rank, place.rank + 1))
    return files[first:last]


def _trained_model(
    path: Path, weights: Literal["best", "last"], device: torch.device, *, without_ema: bool
) -> _Model:
    """The model of a run, on a device; what should be known about it is printed."""
    from vitrellis.cli.console import error_console
    from vitrellis.runs.directory import find_run
    from vitrellis.runs.exported import load_exported

    run = find_run(path)
    trained = load_exported(run.model_folder(weights, without_ema=without_ema))
    for note in trained.notes:
        error_console.print(f"note: {note}", markup=False, soft_wrap=True)
    trained.model.to(device)
    return _Model(trained.class_names, trained.preprocessing, trained.predict_resized)


def _onnx_model(path: Path) -> _Model:
    from vitrellis.export.onnx_classifier import OnnxClassifier

    exported = OnnxClassifier(path.expanduser())
    return _Model(
        exported.class_names, exported.description.preprocessing, exported.predict_resized
    )


def _print_csv(rows: Sequence[_Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for row in rows:
        for rank, guess in enumerate(row.predictions, start=1):
            writer.writerow([row.file, rank, guess.name, f"{guess.probability:.6f}"])


def _print_table(rows: Sequence[_Row], top: int) -> None:
    from vitrellis.cli.console import new_table, print_table

    table = new_table("file", *(["class", ">probability %"] * top))
    for row in rows:
        cells = ((guess.name, f"{100 * guess.probability:.1f}") for guess in row.predictions)
        table.add_row(row.file, *(cell for pair in cells for cell in pair))
    print_table(table)


def _predict(
    model: _Model, files: Sequence[Path], top: int, errors: list[VitrellisError]
) -> list[_Row]:
    """A row for each file that can be read; the errors of the others are added to `errors`."""
    import torch

    from vitrellis.data.sources import read_image
    from vitrellis.errors import VitrellisError

    seen = model.preprocessing
    resize = seen.transform().resize_and_crop
    images, readable = [], []
    for file in files:
        try:
            # at once: 64 photographs of 24 megapixels would take 5 GB
            images.append(resize(read_image(file, seen.channels, seen.value_range)))
            readable.append(file)
        except VitrellisError as error:
            errors.append(error)
    if not images:
        return []
    names = [os.fsencode(file).decode(errors="replace") for file in readable]
    probabilities, classes = model.predict_resized(torch.stack(images), names).topk(top)
    return [
        _Row(name, [_Prediction(model.class_names[k], p) for p, k in zip(ps, ks, strict=True)])
        for name, ps, ks in zip(names, probabilities.tolist(), classes.tolist(), strict=True)
    ]
