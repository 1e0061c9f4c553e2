"""`vitrellis features`: asks a teacher once, for guidance without it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def features(
    recipe: Annotated[str, typer.Argument(help="A packaged recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to it, such as data.root=FOLDER."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory that is trained in later. By default runs/ and name."),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Keep half precision: half the disk.")
    ] = False,
) -> None:
    """Ask a recipe's teachers once about every training image, and keep the answers on disk.

    The teachers are trained first, if they have to be. Training with teacher.offline=true then
    reads the answers in place of running the teachers; crops, flips and warps of an image are done
    to its maps, too. The answers are kept beside the run, and used by all runs there that have the
    same teacher, images and preprocessing. A command that was stopped goes on where it was.

    Examples:
      vitrellis features demo
      vitrellis features cifar100-deit-ti-lg data.root=~/cifar teacher.mode=eval --half
      vitrellis train demo teacher.offline=true
    """
    from vitrellis.assembly.launch import store_features
    from vitrellis.cli.console import console
    from vitrellis.errors import UsageError
    from vitrellis.recipe import load_recipe

    given = list(overrides or [])
    all_teachers = load_recipe(recipe, given).all_teachers
    if not all_teachers:
        raise UsageError(f"{recipe}: has no teacher to ask. Recipes that have: vitrellis recipes")
    changes = []
    for name in all_teachers:
        key = "teacher" if name == "teacher" else f"teachers.{name}"
        changes.append(f"{key}.offline=true")
        changes += [f"{key}.offline_precision=float16"] if half else []
    folders = store_features(load_recipe(recipe, [*given, *changes]), out=out, console=console)
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.iterdir())
        console.print(f"{folder}: {size / 2**20:,.1f} MiB", highlight=False, soft_wrap=True)
    words = [*given, *changes, *(["--out", str(out)] if out is not None else [])]
    console.print(
        f"Train with them: {shlex.join(['vitrellis', 'train', recipe, *words])}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
