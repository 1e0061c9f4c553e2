"""The confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from vitrellis.analysis.metrics import Evaluation
from vitrellis.runs.atomic import atomic_write

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
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


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
