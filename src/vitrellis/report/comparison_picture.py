"""The picture of `vitrellis compare`: the figure of each run, and the mean of each recipe."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from vitrellis.report.pictures import COLOURS
from vitrellis.runs.atomic import atomic_write


def draw_comparison(
    figures: Mapping[str, Mapping[str, float]], path: Path, *, label: str, title: str
) -> None:
    """Draws a row for each recipe: a point for each run, a bar at their mean.

    Thin lines join the runs of one seed and fold, which saw the same images.

    Args:
        figures: The figure of each run as a fraction, by recipe and by seed and fold.
        path: The PNG file.
        label: The name of the figure, for the axis.
        title: The title above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    figure = Figure(figsize=(7.5, 1.4 + 0.45 * len(figures)), layout="constrained")
    axes = figure.subplots()
    names = list(figures)
    for unit in dict.fromkeys(unit for of_arm in figures.values() for unit in of_arm):
        rows = [y for y, name in enumerate(names) if unit in figures[name]]
        places = [100 * figures[names[y]][unit] for y in rows]
        axes.plot(places, rows, color="0.8", linewidth=0.8, zorder=1)
    for y, name in enumerate(names):
        values: Sequence[float] = [100 * value for value in figures[name].values()]
        colour = COLOURS[y % len(COLOURS)]
        axes.plot(values, [y] * len(values), "o", color=colour, markersize=5, alpha=0.8)
        mean = statistics.fmean(values)
        axes.plot([mean, mean], [y - 0.3, y + 0.3], color=colour, linewidth=2.5)
        axes.annotate(
            f"{mean:.1f}",
            (mean, y - 0.3),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=colour,
        )
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.75)
    axes.margins(x=0.08)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3, axis="x")
    atomic_write(path, lambda target: figure.savefig(target, format="png", dpi=150))
