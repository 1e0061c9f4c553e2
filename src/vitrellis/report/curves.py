"""Learning curves of several runs in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrellis.runs.atomic import atomic_write
from vitrellis.runs.results import EpochRow

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""


def learning_curves(runs: Mapping[str, Sequence[EpochRow]], path: Path, *, title: str) -> None:
    """Draws validation accuracy against epochs, and against seconds of training.

    Args:
        runs: The epochs of each run, by its name. Epochs that were not validated are left out. A
            run with "teacher" in its name is drawn dashed.
        path: The PNG file.
        title: The title above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (name, rows) in enumerate(runs.items()):
        points = [(row, 100 * row.val_top1) for row in rows if row.val_top1 is not None]
        if not points:
            continue
        colour = COLOURS[number % len(COLOURS)]
        accuracy = [value for _, value in points]
        style = "--" if "teacher" in name else "-"
        for axes, x in (
            (left, [row.epoch + 1 for row, _ in points]),
            (right, [row.seconds for row, _ in points]),
        ):
            axes.plot(x, accuracy, style, color=colour, label=name, linewidth=1.6)
            axes.plot(x[-1], accuracy[-1], "o", color=colour, markersize=4)
    _label(left, "epochs")
    _label(right, "seconds of training")
    left.set_ylabel("validation accuracy, %")
    left.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, parse_math=False)
    lines, names = left.get_legend_handles_labels()
    if lines:
        # below, where it hides no curve
        columns = min(len(lines), 4)
        legend = figure.legend(
            lines, names, loc="outside lower center", ncols=columns, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    else:
        left.text(0.5, 0.5, "no validation figures", transform=left.transAxes, ha="center")
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def _label(axes: Axes, x: str) -> None:
    axes.set_xlabel(x)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
