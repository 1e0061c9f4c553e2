"""The options that say on what a model is run, the same in every command that runs one."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Where the model is run; auto takes a GPU if there is one."),
]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--precision", help="That of the arithmetic; below float32, by autocast."),
]
