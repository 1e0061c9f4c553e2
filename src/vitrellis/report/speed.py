"""Speed against accuracy, or against multiply-adds, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vitrellis.runs.atomic import atomic_write


def draw_speed(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG with a point for each measurement.

    Args:
        rows: As `vitrellis bench --json` prints them. If all have an accuracy, that is the vertical
            axis; otherwise multiply-adds are.
        path: The file.

    Raises:
        VitrellisError: If it cannot be written.
    """
    has_accuracy = all(row["top1"] is not None for row in rows)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        x = row["forward_images_per_second"]
        y = 100 * row["top1"] if has_accuracy else row["macs"] / 1e6
        axes.plot(x, y, "o")
        axes.annotate(_label(row), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(f"images per second, forward, batches of {rows[0]['batch_size']}")
    axes.set_ylabel("test accuracy in %" if has_accuracy else "million multiply-adds per image")
    if not has_accuracy:
        axes.set_yscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3, which="both")
    atomic_write(path, lambda target: figure.savefig(target, format="png", dpi=150))


def _label(row: dict[str, Any]) -> str:
    height, width = row["img_size"]
    parts = [row["model"], f"{height} px" if height == width else f"{height}x{width} px"]
    if row["precision"] != "float32":
        parts.append(row["precision"])
    if row["compiled"]:
        parts.append("compiled")
    return ", ".join(parts)
