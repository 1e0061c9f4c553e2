"""Attention distance and rank of features against depth, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vitrellis.report.curves import COLOURS
from vitrellis.runs.atomic import atomic_write


def draw_blocks(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draws a point for each block; of attention, the band from the nearest head to the farthest.

    Args:
        rows: As `vitrellis show blocks --json` prints them.
        path: The PNG file.
        title: Above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    has_distance = rows[0]["distance"] is not None
    figure = Figure(figsize=(10 if has_distance else 5.5, 4.2), layout="constrained")
    all_axes = figure.subplots(1, 2 if has_distance else 1, squeeze=False)[0]
    depth = [row["block"] for row in rows]
    if has_distance:
        axes = all_axes[0]
        low, high = ([row[key] for row in rows] for key in ("nearest", "farthest"))
        axes.fill_between(depth, low, high, color=COLOURS[0], alpha=0.2, label="heads")
        axes.plot(depth, [row["distance"] for row in rows], "o-", color=COLOURS[0], label="mean")
        axes.set_ylabel("attention distance, pixels")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    axes = all_axes[-1]
    axes.plot(depth, [row["rank"] for row in rows], "o-", color=COLOURS[1])
    axes.set_ylabel("effective rank of pooled features")
    axes.set_ylim(bottom=0)
    for axes in all_axes:
        axes.set_xlabel("block")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, parse_math=False)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
