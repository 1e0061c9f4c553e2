"""The figures of a model as tables, each at most 80 columns wide for ten classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from vitrellis.cli.console import console, new_table, print_table

if TYPE_CHECKING:
    from vitrellis.analysis.breakdown import Breakdown
    from vitrellis.analysis.metrics import Evaluation

LARGEST_MATRIX = 20
"""The most classes for which the confusion matrix is printed."""


def print_figures(breakdown: Breakdown, title: str) -> None:
    """Prints the figures of the model, of its heads and of groups, of classes, and the confusion.

    Args:
        breakdown: The figures.
        title: The first line.
    """
    evaluation = breakdown.overall
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    _print_overall(evaluation)
    for warning in breakdown.warnings:
        console.print(f"  warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    if breakdown.groupings or breakdown.heads:
        console.print()
        print_table(_groups(breakdown))
    console.print()
    print_table(_classes(breakdown))
    if len(evaluation.class_names) <= LARGEST_MATRIX:
        console.print()
        print_table(_matrix(evaluation))


def _print_overall(evaluation: Evaluation) -> None:
    figures = {
        "top-1": _percent(evaluation.top1),
        "top-5": _percent(evaluation.top5),
        "class-balanced accuracy": _percent(evaluation.balanced_accuracy),
        "macro-F1": _percent(evaluation.macro_f1),
        "calibration error": _percent(evaluation.calibration_error),
    }
    if len(evaluation.class_names) <= 5:
        del figures["top-5"]  # always 100
    for name, value in figures.items():
        console.print(f"  {name:23} {value:>6} %", highlight=False)
    console.print(f"  {'log loss':23} {evaluation.nll:6.3f}", highlight=False)


def _groups(breakdown: Breakdown) -> Table:
    """A row for each group of classes, and a column for each head."""
    from vitrellis.analysis.groups import GROUPS
    from vitrellis.analysis.inference import HEADS

    columns = breakdown.heads or {"accuracy %": breakdown.overall}
    headings = [f">{name} head" if name in HEADS else f">{name}" for name in columns]
    first = "accuracy %, mean over" if breakdown.heads else "mean over"
    table = new_table(first, ">classes", *headings)
    top1 = (_percent(evaluation.top1) for evaluation in columns.values())
    table.add_row("all images", "", *top1)
    balanced = (_percent(evaluation.balanced_accuracy) for evaluation in columns.values())
    table.add_row("all classes", f"{len(breakdown.overall.class_names):,}", *balanced)
    for grouping in breakdown.groupings:
        table.add_row(f"by {grouping.by}:")
        accuracies = [grouping.accuracies(evaluation.confusion) for evaluation in columns.values()]
        for k, name in enumerate(GROUPS):
            figures = (_percent(by_group[k]) for by_group in accuracies)
            classes = f"{len(grouping.members[k]):,}"
            table.add_row(f"  {name}: {grouping.meanings[k]}", classes, *figures)
    return table


def _classes(breakdown: Breakdown) -> Table:
    evaluation, counts = breakdown.overall, breakdown.class_counts
    trained = () if counts is None else (">trained on",)
    headings = (">recall %", ">precision %", ">F1 %", "most taken for")
    table = new_table("class", *trained, ">images", *headings)
    for k, row in enumerate(evaluation.per_class()):
        figures = (_percent(figure) for figure in (row.recall, row.precision, row.f1))
        trained = () if counts is None else (f"{counts[k]:,}",)
        other = _most_taken_for(evaluation, k)
        table.add_row(row.name, *trained, f"{row.images:,}", *figures, other)
    return table


def _matrix(evaluation: Evaluation) -> Table:
    names = evaluation.class_names
    matrix = new_table("true, predicted as:", *(f">{k}" for k in range(len(names))))
    for k, counts in enumerate(evaluation.confusion.tolist()):
        matrix.add_row(f"{k:2} {names[k]}", *(str(count) for count in counts))
    return matrix


def _most_taken_for(evaluation: Evaluation, k: int) -> str:
    """The class that images of class `k` are most often confused with, and how often."""
    wrong = evaluation.confusion[k].clone()
    wrong[k] = 0
    if wrong.sum() == 0:
        return ""
    other = int(wrong.argmax())
    return f"{evaluation.class_names[other]} ({int(wrong[other]):,})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
