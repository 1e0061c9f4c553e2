"""`vitrellis features`: computes the outputs of a recipe's teachers once and stores them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.recipe_names import OverridesArgument, RecipeArgument, load_and_note
from vitrellis.cli.shared_options import JsonOption, output_folder


def features(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run directory of the later training. By default runs/ and the recipe's name.",
            callback=output_folder,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store half precision, which takes half the disk.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Compute a recipe's teachers' outputs for every training image once, and store them on disk.

    The teachers are trained first if needed. Training with teacher.offline=true then reads the
    stored outputs and does not run the teachers; crops, flips and warps of an image are also
    applied to its feature maps. The outputs are stored beside the run, and used by all runs there
    with the same teacher, images and preprocessing. The same command resumes after a stop.

    Examples:
      vitrellis features demo
      vitrellis features cifar100-deit-ti-lg data.root=~/cifar teacher.mode=eval --half
      vitrellis train demo teacher.offline=true
    """
    from vitrellis.assembly.launch import store_features
    from vitrellis.cli.console import print_json, print_line, training_console
    from vitrellis.errors import UsageError
    from vitrellis.recipe import load_recipe

    overrides = overrides or []
    progress = training_console(quiet=quiet, as_json=as_json)
    all_teachers = load_and_note(recipe, overrides, progress).all_teachers
    if not all_teachers:
        raise UsageError(
            f"{recipe}: has no teacher. `vitrellis recipes` lists recipes that have one"
        )
    changes = []
    for name in all_teachers:
        key = "teacher" if name == "teacher" else f"teachers.{name}"
        changes.append(f"{key}.offline=true")
        changes += [f"{key}.offline_precision=float16"] if half else []
    folders = store_features(load_recipe(recipe, [*overrides, *changes]), out=out, console=progress)
    sizes = {f: sum(file.stat().st_size for file in f.iterdir()) for f in folders}
    words = [
        *dict.fromkeys([*overrides, *changes]),
        *(["--out", str(out)] if out is not None else []),
    ]
    command = shlex.join(["vitrellis", "train", recipe, *words])
    if as_json:
        stores = [{"folder": str(folder), "bytes": size} for folder, size in sizes.items()]
        print_json({"stores": stores, "command": command})
        return
    for folder, size in sizes.items():
        print_line(f"{folder}: {size / 2**20:,.1f} MiB")
    print_line(f"Train with them: {command}")
