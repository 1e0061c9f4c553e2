"""The picture of `vitrellis bench`: the speed of models against their accuracy or cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from vitrellis.analysis.measurement import Measurement
from vitrellis.report.pictures import COLOURS
from vitrellis.runs.atomic import atomic_write

KEEP = ", keep "
"""Between a model's name and the keep rate of token pruning that it is measured at."""


def draw_speed(rows: Sequence[Measurement], path: Path) -> None:
    """Writes a PNG with a point for each measurement; those of one model are joined.

    Args:
        rows: The measurements. If all have an accuracy, it is the vertical axis; otherwise
            multiply-adds are.
        path: The file.

    Raises:
        VitrellisError: If it cannot be written.
    """
    accuracies = [100 * row.top1 for row in rows if row.top1 is not None]
    has_accuracy = len(accuracies) == len(rows)
    heights = accuracies if has_accuracy else [row.cost.macs / 1e6 for row in rows]
    points = [
        (row, row.cost.images_per_second(row.cost.forward), y)
        for row, y in zip(rows, heights, strict=True)
    ]
    figure = Figure(figsize=(9, 6) if len(rows) > 8 else (7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (_, of_model) in enumerate(itertools.groupby(points, key=_series)):
        own = list(of_model)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([x for _, x, _ in own], [y for _, _, y in own], "o-", color=colour, linewidth=1)
        for row, x, y in own:
            axes.annotate(
                _label_point(row, with_size=len({row.img_size for row in rows}) > 1),
                (x, y),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=colour,
                parse_math=False,
            )
    axes.set_xscale("log")
    axes.set_xlabel(f"images per second, forward, batches of {rows[0].cost.batch_size}")
    axes.set_ylabel("test accuracy in %" if has_accuracy else "million multiply-adds per image")
    _write_plain_numbers(axes.xaxis)
    if not has_accuracy:
        axes.set_yscale("log")
        _write_plain_numbers(axes.yaxis)
    axes.margins(x=0.3, y=0.15)
    axes.grid(alpha=0.3, which="both")
    atomic_write(path, lambda target: figure.savefig(target, format="png", dpi=150))


def _series(point: tuple[Measurement, float, float]) -> tuple[str, str, bool]:
    """What the points that are joined have in common: all but image size and keep rate."""
    row = point[0]
    return row.model.partition(KEEP)[0], row.precision, row.compiled


def _write_plain_numbers(axis: Axis) -> None:
    """Labels a logarithmic axis with 400, not with powers of ten."""
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def _label_point(row: Measurement, *, with_size: bool) -> str:
    """The model's name, or its keep rate; its size in pixels if the picture has several."""
    name, _, rate = row.model.partition(KEEP)
    parts = [f"keep {rate}" if rate else name]
    if with_size:
        parts.append(f"{row.pixels} px")
    if row.precision != "float32":
        parts.append(row.precision)
    if row.compiled:
        parts.append("compiled")
    return ", ".join(parts)
