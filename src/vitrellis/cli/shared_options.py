"""Options that are the same in every command that runs a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def output_file(path: Path | None) -> Path | None:
    """The value of an option that names a file to write, checked before anything is computed.

    Raises:
        VitrellisError: If it cannot be written.
    """
    from vitrellis.runs.atomic import check_can_be_written

    if path is not None:
        check_can_be_written(path)
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
WithoutEmaOption = Annotated[
    bool,
    typer.Option("--without-ema", help="Take the weights in place of their moving average (EMA)."),
]
