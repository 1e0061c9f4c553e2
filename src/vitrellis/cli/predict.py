"""`vitrellis predict`: labels with probabilities."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from vitrellis.runs.exported import Trained


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    paths: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files, folders, or - for a list on stdin."),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 1,
    weights: Annotated[
        Literal["best", "last"], typer.Option(help="The best checkpoint, or the last.")
    ] = "best",
    batch_size: Annotated[int, typer.Option(min=1, help="Images computed together.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Predict the classes of images, with the preprocessing that the run was trained with.

    An image that cannot be read is named on standard error; the others are predicted all the
    same, and the exit code is 1.

    Examples:
      vitrellis predict runs/photos a.jpg b.png
      vitrellis predict runs/photos new-photos/ --top 3
      find . -name "*.jpg" | vitrellis predict runs/photos - --csv > labels.csv
    """
    from rich.progress import Progress

    from vitrellis.assembly.build import evaluation_place
    from vitrellis.cli.console import error_console, fail, new_table, print_json, print_table
    from vitrellis.errors import UsageError, VitrellisError
    from vitrellis.runs.directory import find_run
    from vitrellis.runs.exported import load_exported

    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    found = find_run(run)
    trained = load_exported(found.best_model if weights == "best" else found.last_model)
    top = min(top, len(trained.class_names))
    files = _files(paths)
    trained.model.to(evaluation_place().device)
    rows: list[dict[str, Any]] = []
    failed: list[VitrellisError] = []
    with Progress(
        console=error_console, transient=True, disable=not error_console.is_terminal
    ) as progress:
        task = progress.add_task("images", total=len(files))
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            rows += _predict(trained, part, top, failed)
            progress.advance(task, len(part))
    if as_json:
        print_json(rows)
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", "rank", "class", "probability"])
        for row in rows:
            for rank, guess in enumerate(row["predictions"], start=1):
                writer.writerow([row["file"], rank, guess["class"], f"{guess['probability']:.6f}"])
    elif rows:
        table = new_table("file", *(["class", ">probability %"] * top))
        for row in rows:
            cells = ((g["class"], f"{100 * g['probability']:.1f}") for g in row["predictions"])
            table.add_row(row["file"], *(cell for pair in cells for cell in pair))
        print_table(table)
    for error in failed:
        fail(error)
    if failed:
        raise typer.Exit(VitrellisError.exit_code)


def _files(paths: list[str]) -> list[Path]:
    """The images that are meant, folders walked in order of name."""
    from vitrellis.data.sources import list_images
    from vitrellis.errors import VitrellisError

    files: list[Path] = []
    for path in _expanded(paths):
        if path.is_dir():
            inside = list(list_images(path).images)
            if not inside:
                raise VitrellisError(f"{path}: holds no images")
            files += inside
        else:
            files.append(path)
    if not files:
        raise VitrellisError("no images: standard input names none")
    return files


def _expanded(paths: list[str]) -> Iterator[Path]:
    for text in paths:
        if text == "-":
            # as bytes, because names of files need not be Unicode
            lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
            yield from (Path(os.fsdecode(line)) for line in lines if line)
        else:
            yield Path(text).expanduser()


def _predict(
    trained: Trained, files: list[Path], top: int, failed: list[Any]
) -> list[dict[str, Any]]:
    """A row for each readable file; errors go to `failed`."""
    from vitrellis.data.sources import read_image
    from vitrellis.errors import VitrellisError

    images, readable = [], []
    for file in files:
        try:
            images.append(read_image(file, trained.preprocessing.channels))
            readable.append(file)
        except VitrellisError as error:
            failed.append(error)
    if not images:
        return []
    probabilities, classes = trained.predict(images).topk(top)
    return [
        {
            "file": os.fsencode(file).decode(errors="replace"),
            "predictions": [
                {"class": trained.class_names[k], "probability": p}
                for p, k in zip(ps, ks, strict=True)
            ],
        }
        for file, ps, ks in zip(readable, probabilities.tolist(), classes.tolist(), strict=True)
    ]
