"""Pictures of results: curves, counts, confusion, blocks and speed, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter
from torch import Tensor

from vitrellis.analysis.block_figures import BlockFigures
from vitrellis.analysis.breakdown import Breakdown
from vitrellis.analysis.metrics import Evaluation
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
    _label_axes(left, "epochs")
    _label_axes(right, "seconds of training")
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
    save_figure(figure, path)


def _label_axes(axes: Axes, x: str) -> None:
    axes.set_xlabel(x)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


MOST_CLASSES_NAMED = 25
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
    if len(counts) <= MOST_CLASSES_NAMED:
        _name_classes(axes, breakdown)
    if breakdown.heads:
        axes.legend(frameon=False)
    save_figure(figure, path)


def _name_classes(axes: Axes, breakdown: Breakdown) -> None:
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


MOST_NUMBERS = 25
"""The most classes whose counts are written into the cells."""
MOST_NAMES = 100
"""The most classes whose names are written along the sides."""
LONGEST_NAME = 24
"""The most letters of a name that are written."""


def draw_confusion(evaluation: Evaluation, path: Path, *, title: str) -> None:
    """Draws a row for each true class, shaded by the share of the row.

    Shades follow the square root, so that rare confusions can be seen.

    Args:
        evaluation: The figures whose confusion matrix is drawn.
        path: The PNG file.
        title: The title above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    counts = evaluation.confusion
    shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
    side = min(14.0, 2.5 + 0.5 * len(counts))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.suptitle(title, parse_math=False)
    if len(counts) <= MOST_NAMES:
        _write_names(axes, evaluation.class_names)
    if len(counts) <= MOST_NUMBERS:
        _write_counts(axes, counts, shares)
    bar = figure.colorbar(picture, label="share of the true class", shrink=0.8, aspect=30)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.outline.set_visible(False)
    save_figure(figure, path)


def _write_names(axes: Axes, names: tuple[str, ...]) -> None:
    labels = [n if len(n) <= LONGEST_NAME else n[: LONGEST_NAME - 1] + "…" for n in names]
    size = 10 if len(names) <= MOST_NUMBERS else max(5, 10 - len(names) / 20)
    turn = 45 if len(names) <= MOST_NUMBERS else 90
    anchor = "right" if turn == 45 else "center"
    axes.set_xticks(
        range(len(names)), labels, rotation=turn, ha=anchor, fontsize=size, parse_math=False
    )
    axes.set_yticks(range(len(names)), labels, fontsize=size, parse_math=False)
    axes.tick_params(length=2)


def _write_counts(axes: Axes, counts: Tensor, shares: Tensor) -> None:
    """Writes the counts other than 0 into the cells.

    Args:
        axes: The axes with the matrix.
        counts: `(K, K)` images.
        shares: `(K, K)` shares of the rows.
    """
    for row, column in counts.nonzero().tolist():
        colour = "white" if shares[row, column] > 0.3 else "black"
        text = f"{int(counts[row, column]):,}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def draw_blocks(rows: Sequence[BlockFigures], path: Path, *, title: str) -> None:
    """Draws a point for each block, and a band from the nearest head to the farthest.

    Args:
        rows: The figures of each block. Without distances, ranks alone are drawn.
        path: The PNG file.
        title: The title above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    distances = [
        (row.distance, row.nearest, row.farthest) for row in rows if row.distance is not None
    ]
    figure = Figure(figsize=(10 if distances else 5.5, 4.2), layout="constrained")
    all_axes = figure.subplots(1, 2 if distances else 1, squeeze=False)[0]
    depth = [row.block for row in rows]
    if distances:
        axes = all_axes[0]
        mean, low, high = zip(*distances, strict=True)
        axes.fill_between(depth, low, high, color=COLOURS[0], alpha=0.2, label="heads")
        axes.plot(depth, mean, "o-", color=COLOURS[0], label="mean")
        axes.set_ylabel("attention distance, pixels")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    axes = all_axes[-1]
    axes.plot(depth, [row.rank for row in rows], "o-", color=COLOURS[1])
    axes.set_ylabel("effective rank of pooled features")
    axes.set_ylim(bottom=0)
    for axes in all_axes:
        axes.set_xlabel("block")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, parse_math=False)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, whole or not at all.

    Args:
        figure: The figure.
        path: The file.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    atomic_write(path, lambda target: figure.savefig(target, format="png", dpi=150))
