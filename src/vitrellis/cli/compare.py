"""`vitrellis compare`: trains several recipes over several seeds and compares their figures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitrellis.cli.cluster_options import Jobs, Ray, Slurm, cluster_slots
from vitrellis.cli.console import Quiet
from vitrellis.cli.recipe_names import complete_recipe
from vitrellis.cli.shared_options import JsonOption, output_file, output_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from vitrellis.experiments.comparison import Measured, SomeFailed
    from vitrellis.experiments.comparison_plan import Arm
    from vitrellis.recipe import Recipe

_Equal = Annotated[
    Literal["seconds", "multiply-adds"] | None,
    typer.Option(
        help="What the longer controls have in common with student and teacher. By default "
        "seconds, or multiply-adds if trainings at the same time share a device."
    ),
]


_Controls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Also train every guided student without its teacher: for as many epochs, and for "
        "as many seconds (see --equal) as student and teacher took together.",
    ),
]
_Out = Annotated[Path, typer.Option(help="The folder for the runs.", callback=output_folder)]
_Plot = Annotated[
    Path | None,
    typer.Option(help="Draw the figure of every run into this PNG file.", callback=output_file),
]


def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|KEY=VALUE",
            help="Recipes, by name or as YAML files, then changes to all of them.",
            autocompletion=complete_recipe,
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N - 1.")] = 3,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validate with this many folds for each seed."),
    ] = None,
    controls: _Controls = False,
    baseline: Annotated[
        str | None,
        typer.Option(help="The recipe that the others are compared with; by default the first."),
    ] = None,
    jobs: Jobs = None,
    slurm: Slurm = None,
    ray: Ray = None,
    equal: _Equal = None,
    metric: Annotated[
        str, typer.Option(help="top1, balanced_accuracy or macro_f1 on the test images.")
    ] = "top1",
    out: _Out = Path("runs/compare"),
    plot: _Plot = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Train several recipes over several seeds, and print means, spread and paired differences.

    Each seed determines the images, the initial weights and the order, the same for all recipes,
    so that recipes are compared in pairs; the interval is Student's t interval of the paired
    differences. Test images are not used for model selection. If some classes have many more
    training images than others, accuracy is also printed for head, mid and tail classes. A teacher
    that several recipes share is trained once for each seed. Complete runs are not repeated: to
    resume, to try again what failed, or to add seeds or recipes, run the command again.

    With --jobs, each training is a process of its own, which has its share of the cores, or a GPU;
    what it prints is in the folder logs. With the same number of threads (machine.threads), the
    figures are those of --jobs 1. A training that fails does not stop the others. With --slurm or
    --ray, the trainings run on a cluster, whose machines see the same folders as this one.

    Examples:
      vitrellis compare demo-alone demo-lg demo
      vitrellis compare demo --controls --seeds 5 --jobs 4 --plot gain.png
      vitrellis compare photos photos-alone data.root=my-photos --folds 5 --seeds 1
      vitrellis compare fashion-lt-alone fashion-lt-deit-lt --metric balanced_accuracy
      vitrellis compare mine.yaml other.yaml --metric balanced_accuracy --out runs/mine
      vitrellis compare demo --controls --slurm "--partition=gpu --gpus=1 --time=1:00:00"
      vitrellis compare demo --controls --jobs 12 --ray auto machine.threads=4
    """
    from vitrellis.cli.console import training_console
    from vitrellis.errors import unknown_name

    progress = training_console(quiet=quiet, as_json=as_json)
    recipes = _recipes(words, progress)  # fails early on a wrong recipe
    names = [recipe.name for _, recipe in recipes]
    if baseline is not None and baseline not in names:
        raise unknown_name("baseline", baseline, names)

    from vitrellis.experiments.comparison import compare as run
    from vitrellis.experiments.comparison_plan import units
    from vitrellis.experiments.comparison_table import METRICS

    if metric not in METRICS:
        raise unknown_name("metric", metric, tuple(METRICS))
    arms = _arms(recipes, words, controls=controls)
    slots = cluster_slots(jobs, slurm, ray, [recipe for _, recipe in recipes])
    jobs = jobs or 1
    train = partial(run, arms, units(seeds, folds), out=out, jobs=jobs, slots=slots, equal=equal)
    rows, failed = _rows(train, progress, names)
    _check_metric(rows, metric)
    if as_json:
        _print_json(rows)
    elif rows:
        _print(rows, metric, baseline or names[0], folds, jobs, is_here=slots is None)
    if plot is not None and rows:
        _draw(rows, metric, plot)
    if failed is not None:
        raise failed


def _arms(
    recipes: Sequence[tuple[str, Recipe]], words: Sequence[str], *, controls: bool
) -> list[Arm]:
    """An arm for each recipe; those with a teacher have controls if they are asked for."""
    from vitrellis.experiments.comparison_plan import Arm

    overrides = tuple(word for word in words if "=" in word)
    return [
        Arm(recipe.name, word, overrides, controls=controls and bool(recipe.all_teachers))
        for word, recipe in recipes
    ]


def _rows(
    train: Callable[..., list[Measured]], progress: Console, names: Sequence[str]
) -> tuple[list[Measured], SomeFailed | None]:
    """The rows of all that is complete, in the order of the table, and an error about the rest."""
    from vitrellis.experiments.comparison import SomeFailed

    try:
        return _ordered(train(console=progress), names), None
    except SomeFailed as error:
        return _ordered(error.complete, names), error


def _recipes(words: Sequence[str], progress: Console) -> list[tuple[str, Recipe]]:
    """The recipes: words without an equals sign, with the changes that the other words make."""
    from vitrellis.cli.console import print_notes
    from vitrellis.errors import UsageError
    from vitrellis.recipe import load_recipe, notes_on_teachers

    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if not names:
        raise UsageError("compare: no recipe given; `vitrellis recipes` lists them")
    recipes = [(word, load_recipe(word, overrides)) for word in names]
    notes = [note for _, recipe in recipes for note in notes_on_teachers(recipe, overrides)]
    print_notes(progress, list(dict.fromkeys(notes)))
    return recipes


def _ordered(rows: Sequence[Measured], names: Sequence[str]) -> list[Measured]:
    """The students in the order of the command, then controls, then teachers."""
    roles = ("student", "control", "teacher")

    def place(row: Measured) -> tuple[int, int]:
        return roles.index(row.role), names.index(row.arm) if row.arm in names else len(names)

    return sorted(rows, key=place)


def _draw(rows: Sequence[Measured], metric: str, path: Path) -> None:
    from vitrellis.experiments.comparison_table import METRICS, arm_labels
    from vitrellis.report.comparison_picture import draw_comparison

    figures = {
        label: {row.unit: row.figures[metric] for row in rows if row.arm == label}
        for label in arm_labels(rows)
    }
    splits = " and ".join(sorted({row.split for row in rows}))
    count = len({row.unit for row in rows})
    title = f"{count} run{'s' if count > 1 else ''} of each; lines join runs on the same images"
    draw_comparison(figures, path, label=f"{splits} {METRICS[metric]} in %", title=title)


def _check_metric(rows: Sequence[Measured], metric: str) -> None:
    from vitrellis.errors import UsageError

    for row in rows:
        if metric not in row.figures:
            raise UsageError(
                f"metric {metric}: is not known for {row.arm}, as there are no test images. Use "
                "--metric top1, which is then the validation accuracy, or --folds"
            )


def _print_json(rows: Sequence[Measured]) -> None:
    from dataclasses import asdict

    from vitrellis.cli.console import print_json
    from vitrellis.report.hardware import describe_hardware

    print_json({"hardware": describe_hardware(), "rows": [asdict(row) for row in rows]})


def _print(
    rows: Sequence[Measured],
    metric: str,
    baseline: str,
    folds: int | None,
    jobs: int,
    *,
    is_here: bool,
) -> None:
    from vitrellis.analysis.groups import COUNTED, THRESHOLDS
    from vitrellis.cli.console import console, new_table, print_table
    from vitrellis.experiments.comparison_table import (
        arm_labels,
        fill_groups,
        fill_table,
        ways_of_grouping,
    )
    from vitrellis.report.hardware import describe_hardware

    console.print()
    table = new_table()
    labels = arm_labels(rows)
    reference = baseline if len(labels) > 1 and baseline in labels else None
    fill_table(table, rows, metric=metric, baseline=reference, folds=folds)
    print_table(table)
    for by in ways_of_grouping(rows):
        table = new_table()
        fill_groups(table, rows, by)
        console.print()
        print_table(table)
        if by == COUNTED:
            many, few = THRESHOLDS
            console.print(
                f"head: more than {many} training images, tail: fewer than {few}", highlight=False
            )
    count = len({row.unit for row in rows})
    lines = [f"{count} runs of each ({', '.join(sorted({row.unit for row in rows}))})"]
    if count == 1:
        lines = ["One run of each is an anecdote: more --seeds give mean, spread and interval."]
    if any(row.split == "validation" for row in rows):
        lines.append(
            "There are no test images: these are validation figures, which also chose the epoch."
        )
    if jobs > 1 or not is_here:
        lines.append(
            "Trainings ran at the same time: seconds and images/s are not those of single ones."
        )
    if is_here:
        lines.append(f"Measured on {describe_hardware()}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
