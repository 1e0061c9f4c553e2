"""`vitrellis demo`: shows what a teacher's guidance gains, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.recipe_names import load_and_note
from vitrellis.cli.shared_options import output_folder


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe of every student."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds 0 to N - 1; several give mean and spread.")
    ] = 1,
    all_arms: Annotated[
        bool, typer.Option("--all", help="Also train a hybrid ViT (DHVT), alone and guided.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The folder for the runs.", callback=output_folder)
    ] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """See a small CNN teacher help a Vision Transformer, on 1,000 real images, in minutes.

    The demo trains the teacher, a small plain ViT alone, the same ViT guided by the teacher, and
    the same ViT alone for as many seconds as teacher and guided student took together. The images
    are in the package (Fashion-MNIST); test images are not used for model selection. An interrupted
    demo is resumed; a complete one starts again, so that every figure printed was just measured.

    Examples:
      vitrellis demo
      vitrellis demo --seeds 3
      vitrellis demo --all data.train_size=2000
    """
    from vitrellis.cli.console import console, training_console

    changes = overrides or []
    progress = training_console(quiet=quiet)
    load_and_note("demo-vit", changes, progress)

    from vitrellis.experiments.demonstration import demonstrate

    demonstrate(
        out=out,
        seeds=seeds,
        with_hybrid=all_arms,
        overrides=changes,
        console=console,
        progress=progress,
    )
