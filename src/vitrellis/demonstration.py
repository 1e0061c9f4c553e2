"""The demo: does guidance help, at equal epochs and at equal seconds, on this machine, now?

Every claim is checked against what was just measured, and withdrawn where it does not hold.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vitrellis.recipe import Recipe, load_recipe
from vitrellis.report.curves import learning_curves
from vitrellis.report.hardware import describe_hardware
from vitrellis.training.atomic import atomic_write
from vitrellis.training.launch import Finished, train
from vitrellis.training.run import RunDirectory

TEACHER = "CNN teacher"
ALONE = "DHVT alone"
SAME_SECONDS = "DHVT alone, same seconds"
GUIDED = "DHVT guided"
VIT_ALONE = "plain ViT alone"
VIT_GUIDED = "plain ViT guided"


@dataclass(frozen=True)
class Measured:
    """One arm with one seed.

    Attributes:
        arm: Its name in the table.
        seed: Of data order, initialisation and augmentation.
        epochs: Trained.
        test_top1: Accuracy of the checkpoint that validation chose, as a fraction.
        val_top1: Its validation accuracy.
        seconds: In training steps; a guided student's include its teacher's forward passes, not
            the teacher's training.
        images_per_second: Over all training steps.
        run: The run directory.
    """

    arm: str
    seed: int
    epochs: int
    test_top1: float
    val_top1: float
    seconds: float
    images_per_second: float
    run: str


def demonstrate(
    *,
    out: Path,
    seeds: Sequence[int],
    with_plain_vit: bool,
    overrides: Sequence[str],
    console: Console,
) -> list[Measured]:
    """Trains all arms and prints the table, the verdict and where the picture is.

    Args:
        out: Folder for the runs. A complete demo in it is deleted first.
        seeds: One set of runs each.
        with_plain_vit: Also train the plain ViT, alone and guided.
        overrides: `key=value` changes to the recipes of the students.
        console: Where to print.
    """
    summary = out / "summary.json"
    if summary.exists():
        shutil.rmtree(out)
    measured: list[Measured] = []
    for seed in seeds:
        measured += _one_seed(out / f"seed{seed}", seed, with_plain_vit, overrides, console)
    picture = out / "curves.png"
    first = [m for m in measured if m.seed == seeds[0]]
    learning_curves(
        {m.arm: RunDirectory(Path(m.run)).read_metrics() for m in first},
        picture,
        title=f"Validation accuracy, seed {seeds[0]}",
    )
    console.print()
    console.print(_table(measured))
    for line in verdict(measured):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Measured on {describe_hardware()}", highlight=False, soft_wrap=True)
    console.print(f"Learning curves: {picture}", highlight=False, soft_wrap=True)
    for m in first:
        console.print(f"  {m.arm + ':':26} {m.run}", highlight=False, soft_wrap=True)
    rows = [asdict(m) for m in measured]
    atomic_write(summary, lambda path: path.write_text(json.dumps(rows, indent=2)))
    return measured


def verdict(measured: Sequence[Measured]) -> list[str]:
    """What the figures say, claim by claim, in percentage points of test accuracy."""
    lines = []
    pairs = [(GUIDED, ALONE, "itself alone, at equal epochs")]
    pairs += [(GUIDED, SAME_SECONDS, "itself alone, at equal seconds (teacher included)")]
    pairs += [(GUIDED, TEACHER, "its own teacher")]
    pairs += [(VIT_GUIDED, VIT_ALONE, "itself alone, at equal epochs")]
    for arm, other, words in pairs:
        by_seed = {m.seed: m for m in measured if m.arm == arm}
        against = {m.seed: m for m in measured if m.arm == other}
        gains = [100 * (by_seed[s].test_top1 - against[s].test_top1) for s in by_seed]
        if not gains:
            continue
        mean = statistics.fmean(gains)
        won = sum(gain > 0 for gain in gains)
        claim = "beats" if mean > 0 else "does not beat"
        detail = f"{mean:+.1f} points"
        if len(gains) > 1:
            each = ", ".join(f"{gain:+.1f}" for gain in gains)
            detail += f" on average ({each}), ahead in {won} of {len(gains)}"
        lines.append(f"The {arm.split()[-2]} with guidance {claim} {words}: {detail}.")
    if len({m.seed for m in measured}) == 1:
        lines.append("One seed is an anecdote: `vitrellis demo --seeds 3` gives mean and spread.")
    return lines


def _one_seed(
    folder: Path, seed: int, with_plain_vit: bool, overrides: Sequence[str], console: Console
) -> list[Measured]:
    def run(arm: str, recipe: Recipe, name: str) -> Finished:
        console.rule(f"{arm}, seed {seed}", align="left")
        return train(recipe, out=folder / name, console=console)

    changes = [*overrides, f"seed={seed}"]
    guided = run(GUIDED, load_recipe("demo", changes), "guided")
    assert guided.teacher is not None
    alone_recipe = load_recipe("demo-alone", changes)
    alone = run(ALONE, alone_recipe, "alone")
    seconds = guided.teacher.results["seconds"] + guided.results["seconds"]
    epochs = round(alone_recipe.training.epochs * seconds / alone.results["seconds"])
    longer = load_recipe("demo-alone", [*changes, f"training.epochs={max(1, epochs)}"])
    same_seconds = run(SAME_SECONDS, longer, "alone-same-seconds")
    measured = [
        _measure(TEACHER, guided.teacher),
        _measure(ALONE, alone),
        _measure(SAME_SECONDS, same_seconds),
        _measure(GUIDED, guided),
    ]
    if with_plain_vit:
        for arm, name in ((VIT_ALONE, "demo-vit-alone"), (VIT_GUIDED, "demo-vit")):
            measured.append(_measure(arm, run(arm, load_recipe(name, changes), name[5:])))
    return measured


def _measure(arm: str, finished: Finished) -> Measured:
    results: dict[str, Any] = finished.results
    return Measured(
        arm=arm,
        seed=results["seed"],
        epochs=results["epochs"],
        test_top1=results["best"]["test"]["top1"],
        val_top1=results["best"]["val_top1"],
        seconds=results["seconds"],
        images_per_second=results["images_per_second"],
        run=str(finished.run.path),
    )


def _table(measured: Sequence[Measured]) -> Table:
    num_seeds = len({m.seed for m in measured})
    spread = " (mean ± std)" if num_seeds > 1 else ""
    table = Table(title=f"Fashion-MNIST, few images, {num_seeds} seed{'s' * (num_seeds > 1)}")
    table.add_column("")
    for column in (f"test accuracy %{spread}", "epochs", "seconds", "images/s"):
        table.add_column(column, justify="right")
    for arm in dict.fromkeys(m.arm for m in measured):
        rows = [m for m in measured if m.arm == arm]
        accuracies = [100 * m.test_top1 for m in rows]
        accuracy = f"{statistics.fmean(accuracies):.1f}"
        if num_seeds > 1:
            accuracy += f" ± {statistics.stdev(accuracies):.1f}"
        table.add_row(
            arm,
            accuracy,
            f"{statistics.fmean(m.epochs for m in rows):.0f}",
            f"{statistics.fmean(m.seconds for m in rows):.1f}",
            f"{statistics.fmean(m.images_per_second for m in rows):,.0f}",
        )
    return table
