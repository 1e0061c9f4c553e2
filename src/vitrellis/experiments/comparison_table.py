"""The figures of a comparison as tables and sentences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table

from vitrellis.analysis.groups import GROUPS
from vitrellis.analysis.paired import PairedDifference, paired_difference
from vitrellis.experiments.comparison import Measured

METRICS = {
    "top1": "accuracy",
    "balanced_accuracy": "class-balanced accuracy",
    "macro_f1": "macro-F1",
}
"""The figures that rows can be compared by, with their names."""


def arm_labels(rows: Sequence[Measured]) -> list[str]:
    """Each label once, in the order of the rows."""
    return list(dict.fromkeys(row.arm for row in rows))


def fill_table(
    table: Table, rows: Sequence[Measured], *, metric: str, baseline: str | None, folds: int | None
) -> None:
    """Adds columns, and a row for each arm: mean and spread over units, difference, cost.

    Args:
        table: An empty table.
        rows: The rows of `compare`.
        metric: One of `METRICS`.
        baseline: The label of the arm that the others are compared with; None for no comparison.
        folds: The number of folds; None without cross-validation.
    """
    splits = " and ".join(sorted({row.split for row in rows}))
    several = len({row.unit for row in rows}) > 1
    table.add_column("", no_wrap=True)
    columns = [f"{splits} {METRICS[metric]} %" + (" (mean ± std)" if several else "")]
    if baseline is not None:
        columns.append(f"gain over {baseline}" + (" (95 % interval)" if several else ""))
    for column in [*columns, "epochs", "seconds", "images/s"]:
        table.add_column(column, justify="right")
    for label in arm_labels(rows):
        arm = [row for row in rows if row.arm == label]
        cells = [label, mean_and_spread([100 * row.figures[metric] for row in arm])]
        if baseline is not None:
            is_other = label != baseline
            cells.append(
                in_points(difference(rows, label, baseline, metric, folds)) if is_other else ""
            )
        cells += [
            f"{statistics.fmean(row.epochs for row in arm):.0f}",
            f"{statistics.fmean(row.seconds for row in arm):.1f}",
            f"{statistics.fmean(row.images_per_second for row in arm):,.0f}",
        ]
        table.add_row(*cells)


def ways_of_grouping(rows: Sequence[Measured]) -> list[str]:
    """The rules that tell head, mid and tail classes apart; empty for classes of equal size."""
    return list(dict.fromkeys(by for row in rows for by in row.groups))


def fill_groups(table: Table, rows: Sequence[Measured], by: str) -> None:
    """Adds columns, and a row for each arm: accuracy of all images, of all classes and by group.

    Args:
        table: An empty table.
        rows: The rows of `compare`; those that were not grouped in this way are left out.
        by: One of `ways_of_grouping`.
    """
    grouped = [row for row in rows if by in row.groups]
    table.add_column(f"test accuracy %, classes by {by}", no_wrap=True)
    for column in ("all images", "all classes", *GROUPS):
        table.add_column(column, justify="right")
    for label in arm_labels(grouped):
        arm = [row for row in grouped if row.arm == label]
        columns = [[row.figures[metric] for row in arm] for metric in ("top1", "balanced_accuracy")]
        columns += [
            [row.groups[by][name] for row in arm if name in row.groups[by]] for name in GROUPS
        ]
        cells = [mean_and_spread([100 * value for value in column]) for column in columns]
        table.add_row(label, *cells)


def difference(
    rows: Sequence[Measured], label: str, other: str, metric: str, folds: int | None
) -> PairedDifference:
    """The gain of one arm over another, in percentage points, unit by unit."""
    mine = {row.unit: 100 * row.figures[metric] for row in rows if row.arm == label}
    theirs = {row.unit: 100 * row.figures[metric] for row in rows if row.arm == other}
    return paired_difference(
        [mine[unit] for unit in mine],
        [theirs[unit] for unit in mine],
        test_share=None if folds is None else 1 / (folds - 1),
    )


def in_points(gain: PairedDifference) -> str:
    """The gain as a figure, such as "+1.5 (+0.2 to +2.8)"."""
    text = f"{gain.mean:+.1f}"
    if gain.interval is not None:
        low, high = gain.interval
        text += f" ({low:+.1f} to {high:+.1f})"
    return text


def in_words(gain: PairedDifference) -> str:
    """The gain in words: "+1.5 points on average (+1.3, +0.7, +2.5), ahead in 3 of 3"."""
    text = f"{gain.mean:+.1f} points"
    if len(gain.each) > 1:
        each = ", ".join(f"{one:+.1f}" for one in gain.each)
        text += f" on average ({each}), ahead in {gain.wins} of {len(gain.each)}"
    return text


def mean_and_spread(figures: Sequence[float]) -> str:
    """The figures as "31.0 ± 0.4", with their standard deviation; "-" if there are none."""
    if not figures:
        return "-"
    text = f"{statistics.fmean(figures):.1f}"
    return text if len(figures) == 1 else f"{text} ± {statistics.stdev(figures):.1f}"
