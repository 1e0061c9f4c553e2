"""`vitrellis train`: trains a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.recipe_names import OverridesArgument, RecipeArgument, load_and_note
from vitrellis.cli.shared_options import JsonOption, output_folder


def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run directory. By default runs/ and the recipe's name.",
            callback=output_folder,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Delete the content of the run directory and start again."),
    ] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe; if it names a teacher, the teacher is trained first.

    The same command resumes a run that was stopped or killed. If the run directory holds the run
    of another recipe, nothing is changed, and the command lists the differences.

    Examples:
      vitrellis train photos data.root=~/my-photos
      vitrellis train photos data.root=~/my-photos training.epochs=100 --out runs/longer
      vitrellis train cifar100-deit-ti-lg data.root=~/cifar machine.devices=2
      vitrellis train my-recipe.yaml --fresh
      vitrellis train photos data.root=~/my-photos --quiet --json > results.json
    """
    from vitrellis.cli.console import error_console, print_json, print_line, training_console

    progress = training_console(quiet=quiet, as_json=as_json)
    loaded = load_and_note(recipe, overrides or [], progress)

    from vitrellis.assembly.launch import train as train_recipe
    from vitrellis.assembly.summary import warning_lines
    from vitrellis.report.results_table import results_lines

    finished = train_recipe(loaded, out=out, fresh=fresh, console=progress)
    run = finished.run.path
    if as_json:
        print_json({"run": str(run)} | finished.results.to_json())
        return
    for line in results_lines(finished.results):
        print_line(line)
    if quiet:  # otherwise they stand among what was printed
        for line in warning_lines(finished.results):
            error_console.print(line, highlight=False, soft_wrap=True)
    print_line(f"Run: {run}\n  vitrellis eval {run}\n  vitrellis predict {run} IMAGE...")
