"""Options that are the same in every command that runs a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def output_file(path: Path | None) -> Path | None:
    """The value of an option that names a file to write, checked before anything is computed.

    Raises:
        UsageError: If it cannot be written.
    """
    from vitrellis.errors import UsageError, VitrellisError
    from vitrellis.runs.atomic import check_can_be_written

    path = output_place(path)
    if path is None:
        return None
    try:
        check_can_be_written(path)
    except VitrellisError as error:
        raise UsageError(str(error)) from error
    return path


def output_folder(path: Path | None) -> Path | None:
    """The value of an option that names a folder to write, checked before anything is computed.

    Raises:
        UsageError: If it can be no folder.
    """
    from vitrellis.runs.places import check_folder

    path = output_place(path)
    if path is not None:
        check_folder(path)
    return path


def output_place(path: Path | None) -> Path | None:
    """The value of an option that names a file or a folder, either of which may be there already.

    Raises:
        UsageError: If the system cannot have it there.
    """
    from vitrellis.runs.places import check_place

    if path is not None:
        path = path.expanduser()
        check_place(path)
    return path


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option of commands that print results, which are then JSON alone on standard output."""
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Where the model is run; auto takes a GPU if there is one."),
]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--precision", help="That of the arithmetic; below float32, by autocast."),
]
WeightsOption = Annotated[
    Literal["best", "last"], typer.Option("--weights", help="The best checkpoint, or the last.")
]
RootOption = Annotated[
    Path | None,
    typer.Option("--root", help="The folder of the run's images, if they were moved."),
]
WithoutEmaOption = Annotated[
    bool,
    typer.Option("--without-ema", help="Take the weights in place of their moving average (EMA)."),
]
