"""`vitrellis sweep`: searches for the best settings of a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitrellis.cli.cluster_options import Jobs, Ray, Slurm, cluster_slots
from vitrellis.cli.console import Quiet
from vitrellis.cli.recipe_names import RecipeArgument, load_and_note
from vitrellis.cli.shared_options import JsonOption, output_folder

if TYPE_CHECKING:
    from vitrellis.experiments.sweeping import SweepResult

_SHOWN = 5


def sweep(
    recipe: RecipeArgument,
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY=LOW..HIGH", help="A key, and the range or list of its values."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe of every trial."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials, with those of earlier calls.")] = 20,
    jobs: Jobs = None,
    slurm: Slurm = None,
    ray: Ray = None,
    pruner: Annotated[
        Literal["median", "hyperband", "none"],
        typer.Option(help="How trials are stopped early that fall behind others."),
    ] = "median",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder for the trials. By default runs/sweep-RECIPE.", callback=output_folder
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Search for the settings with which a recipe is best on the validation images.

    Trials are chosen by Optuna (TPE) and are ordinary runs. Test images choose nothing. The same
    command continues a sweep that was stopped; with more --trials, it goes on. A range of positive
    numbers that spans a factor of ten is searched by logarithm; values can also be listed. Needs
    the extra `sweep` (pip install 'vitrellis[sweep]').

    Examples:
      vitrellis sweep photos data.root=my-photos --over optimizer.lr=1e-4..1e-2 --trials 40
      vitrellis sweep demo-alone --over optimizer.lr=1e-3..1e-2 --over training.ema=0.9,0.99
      vitrellis sweep mine.yaml --over optimizer.weight_decay=0.01..0.3 --jobs 4
      vitrellis sweep mine.yaml --over optimizer.lr=1e-4..1e-2 --jobs 8 --slurm "--gpus=1"
      optuna-dashboard sqlite:///runs/sweep-photos/study.db
    """
    from vitrellis.cli.console import print_json, training_console

    changes = overrides or []
    progress = training_console(quiet=quiet, as_json=as_json)
    loaded = load_and_note(recipe, changes, progress)

    from vitrellis.experiments.search_ranges import SearchRange
    from vitrellis.experiments.sweeping import sweep as search

    folder = Path("runs") / f"sweep-{loaded.name}" if out is None else out
    result = search(
        recipe,
        changes,
        [SearchRange.parse(text) for text in over],
        trials=trials,
        jobs=jobs or 1,
        slots=cluster_slots(jobs or 1, slurm, ray, [loaded]),  # a trial learns from those before
        pruner=pruner,
        out=folder,
        console=progress,
    )
    if as_json:
        print_json(_values(result))
    else:
        _print(result, ["vitrellis", "train", recipe, *changes])


def _values(result: SweepResult) -> dict[str, object]:
    rows = [
        {"trial": t.number, "value": t.value, "overrides": t.overrides, "run": str(t.run)}
        for t in result.best
    ]
    return {"figure": result.figure, "trials": rows, "failed": result.errors}


def _print(result: SweepResult, command: list[str]) -> None:
    """The best trials, and the command that trains the best one anew."""
    from vitrellis.cli.console import console, new_table, print_table

    console.print()
    table = new_table("trial", f">{result.figure} %", "settings", "run")
    for trial in result.best[:_SHOWN]:
        settings = " ".join(trial.overrides)
        table.add_row(str(trial.number), f"{100 * trial.value:.2f}", settings, str(trial.run))
    print_table(table)
    counts = [f"{len(result.best)} trials were completed"]
    if result.num_stopped:
        counts.append(f"{result.num_stopped} stopped early")
    if result.errors:
        counts.append(f"{len(result.errors)} failed")
    winner = result.best[0]
    out = Path(winner.run).parent / "best"
    best = shlex.join([*command, *winner.overrides, "--out", str(out)])
    for line in (
        ", ".join(counts) + ". The best of many validation figures is too high: judge it on the "
        "test images, with other seeds (vitrellis compare).",
        f"  {best}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
