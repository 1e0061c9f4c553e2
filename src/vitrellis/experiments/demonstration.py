"""The demo: whether guidance helps, at equal epochs and at equal seconds, on this machine.

Every claim is checked against the figures just measured, and withdrawn if it does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vitrellis.errors import UsageError
from vitrellis.experiments.comparison import Measured, compare
from vitrellis.experiments.comparison_plan import Arm, units
from vitrellis.experiments.comparison_table import arm_labels, difference, fill_table, in_words
from vitrellis.report.hardware import describe_hardware
from vitrellis.report.pictures import learning_curves
from vitrellis.runs.atomic import write_json
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.marker import delete, is_run

TEACHER = "CNN teacher"
ALONE = "ViT alone"
SAME_SECONDS = "ViT alone, same seconds"
GUIDED = "ViT guided"
DHVT_ALONE = "DHVT alone"
DHVT_GUIDED = "DHVT guided"

CLAIMS = (
    (GUIDED, ALONE, "ViT", "itself alone, at equal epochs"),
    (GUIDED, SAME_SECONDS, "ViT", "itself alone, at equal seconds (teacher included)"),
    (GUIDED, TEACHER, "ViT", "its own teacher"),
    (DHVT_GUIDED, DHVT_ALONE, "DHVT", "itself alone, at equal epochs"),
    (DHVT_GUIDED, TEACHER, "DHVT", "its own teacher"),
)
"""The guided arm and the arm it is compared with, and how a sentence names them."""


def demonstrate(
    *,
    out: Path,
    seeds: int,
    with_hybrid: bool,
    overrides: Sequence[str],
    console: Console,
    progress: Console | None = None,
) -> list[Measured]:
    """Trains all arms and prints the table, the verdict and where the picture is.

    Args:
        out: The folder for the runs. A complete demo in it is deleted first.
        seeds: The number of seeds; each has a set of runs.
        with_hybrid: Also train a hybrid ViT (DHVT), alone and guided.
        overrides: `key=value` changes to the recipes of the students.
        console: The console to print on.
        progress: The console that shows the progress of the trainings; by default the same.
    """
    summary = out / "summary.json"
    if summary.exists():
        _delete_demo(out)
    arms = [
        Arm(ALONE, "demo-vit-alone", tuple(overrides)),
        Arm(GUIDED, "demo-vit", tuple(overrides), controls=True, alone=ALONE),
    ]
    if with_hybrid:
        arms += [
            Arm(DHVT_ALONE, "demo-alone", tuple(overrides)),
            Arm(DHVT_GUIDED, "demo", tuple(overrides)),
        ]
    rows = compare(arms, units(seeds), out=out, console=progress or console)
    measured = [replace(row, arm=TEACHER) if row.role == "teacher" else row for row in rows]
    first = [row for row in measured if row.unit == measured[0].unit]
    picture = out / "curves.png"
    learning_curves(
        {row.arm: RunDirectory(Path(row.run)).read_metrics() for row in first},
        picture,
        title="Validation accuracy, seed 0",
    )
    several = "s" if seeds > 1 else ""
    table = Table(title=f"Fashion-MNIST, few images, {seeds} seed{several}")
    fill_table(table, measured, metric="top1", baseline=None, folds=None)
    console.print()
    console.print(table)
    lines = verdict(measured)
    lines += [f"Measured on {describe_hardware()}", f"Learning curves: {picture}"]
    lines += [f"  {row.arm + ':':26} {row.run}" for row in first]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    write_json(summary, [asdict(row) for row in measured])
    return measured


def _delete_demo(out: Path) -> None:
    """Deletes the runs of a complete demo, and what it wrote beside them; nothing else."""
    names = ("vitrellis-run.json", "recipe.yaml")
    folders = {file.parent for name in names for file in out.glob(f"seed*/**/{name}")}
    runs = [run for folder in sorted(folders) if is_run(run := RunDirectory(folder))]
    if not runs:
        raise UsageError(f"{out}: holds summary.json, but no runs of a demo. Use another --out")
    (out / "summary.json").unlink()  # first: a demo whose deletion is killed is resumed
    (out / "curves.png").unlink(missing_ok=True)
    for run in runs:
        delete(run)
    for folder in [*out.glob("seed*/teachers"), *out.glob("seed*")]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def verdict(measured: Sequence[Measured]) -> list[str]:
    """A sentence for each claim that the figures confirm or refute, in points of test accuracy."""
    labels = arm_labels(measured)
    lines = []
    for arm, other, model, words in CLAIMS:
        if arm in labels and other in labels:
            gain = difference(measured, arm, other, "top1", None)
            claim = "beats" if gain.mean > 0 else "does not beat"
            lines.append(f"The {model} with guidance {claim} {words}: {in_words(gain)}.")
    if len({row.unit for row in measured}) == 1:
        lines.append("One seed is an anecdote: `vitrellis demo --seeds 3` gives mean and spread.")
    return lines
