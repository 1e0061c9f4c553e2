"""The picture of a trade-off: accuracy against speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from vitrellis.report.pictures import COLOURS
from vitrellis.runs.atomic import atomic_write


class Point(NamedTuple):
    """A model of the trade-off."""

    method: str | None
    """How it got fast: points of one method are joined. None for the model that the others are
    compared with."""
    speedup: float
    """How many times as many images per second."""
    top1: float
    """The accuracy, a fraction."""
    label: str
    """A few letters beside the point."""


_NAMES = {"evit": "left out (evit)", "tome": "merged (tome)"}


def draw_trade_off(points: Sequence[Point], path: Path, *, chosen: int | None, title: str) -> None:
    """Draws a line for each method, labelled with keep rates; the chosen point has a ring.

    Args:
        points: The models; those of a method are joined in this order.
        path: The PNG file.
        chosen: The number of the chosen one; None for none.
        title: The title above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    methods = sorted({point.method for point in points if point.method is not None})
    origin = [point for point in points if point.method is None]
    for number, method in enumerate(methods):
        own = [point for point in points if point.method == method]
        line = [*origin, *own]
        axes.plot(
            [point.speedup for point in line],
            [100 * point.top1 for point in line],
            "o-",
            color=COLOURS[number],
            label=_NAMES.get(method, method),
            markersize=4,
            linewidth=1.4,
        )
        below = number % 2
        for point in own:
            axes.annotate(
                point.label,
                (point.speedup, 100 * point.top1),
                xytext=(0, -12 if below else 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=COLOURS[number],
            )
    for point in origin:
        axes.plot(point.speedup, 100 * point.top1, "s", color="black", label="all tokens")
    if chosen is not None:
        axes.plot(
            points[chosen].speedup,
            100 * points[chosen].top1,
            "o",
            color="black",
            markersize=12,
            fillstyle="none",
            label="chosen",
        )
    axes.set_xlabel("times as many images per second as with all tokens, measured")
    axes.set_ylabel("accuracy on validation images, %")
    axes.margins(0.1, 0.15)  # room for the labels of the outermost points
    axes.ticklabel_format(useOffset=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.suptitle(f"{title}: keep rates", parse_math=False)
    atomic_write(path, lambda target: figure.savefig(target, format="png", dpi=150))
