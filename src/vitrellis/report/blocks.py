"""Attention distance and rank of features against depth, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from vitrellis.analysis.block_figures import BlockFigures
from vitrellis.report.curves import COLOURS
from vitrellis.runs.atomic import atomic_write


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
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
