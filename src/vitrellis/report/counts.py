"""Accuracy of each class against its training images, as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from vitrellis.analysis.breakdown import Breakdown
from vitrellis.report.curves import COLOURS
from vitrellis.runs.atomic import atomic_write

MOST_NAMES = 25
"""The most classes whose names are written beside the points."""
_MARKERS = ("o", "^", "s")


def draw_counts(breakdown: Breakdown, path: Path, *, title: str) -> None:
    """Draws a point for each class; for a model with two heads, one for each head.

    Args:
        breakdown: The figures, with known training counts.
        path: The PNG file.
        title: The title above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    counts = breakdown.class_counts
    assert counts is not None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    columns = breakdown.heads or {"accuracy": breakdown.overall}
    for number, (name, evaluation) in enumerate(columns.items()):
        rows = evaluation.per_class()
        points = [
            (count, 100 * row.recall)
            for count, row in zip(counts, rows, strict=True)
            if row.recall is not None
        ]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, _MARKERS[number], color=COLOURS[number], alpha=0.7, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("images of the class that are recognised, %")
    axes.set_ylim(-3, 103)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, parse_math=False)
    if len(counts) <= MOST_NAMES:
        _write_names(axes, breakdown)
    if breakdown.heads:
        axes.legend(frameon=False)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def _write_names(axes: Axes, breakdown: Breakdown) -> None:
    assert breakdown.class_counts is not None
    for row, count in zip(breakdown.overall.per_class(), breakdown.class_counts, strict=True):
        if row.recall is not None:
            axes.annotate(
                row.name,
                (count, 100 * row.recall),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                parse_math=False,
            )
