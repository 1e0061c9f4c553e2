"""Speed against accuracy, or against multiply-adds, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from vitrellis.analysis.cost import Measurement
from vitrellis.runs.atomic import atomic_write


def draw_speed(rows: Sequence[Measurement], path: Path) -> None:
    """Writes a PNG with a point for each measurement.

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
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for row, y in zip(rows, heights, strict=True):
        x = row.cost.images_per_second(row.cost.forward)
        axes.plot(x, y, "o")
        axes.annotate(_label(row), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(f"images per second, forward, batches of {rows[0].cost.batch_size}")
    axes.set_ylabel("test accuracy in %" if has_accuracy else "million multiply-adds per image")
    if not has_accuracy:
        axes.set_yscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3, which="both")
    atomic_write(path, lambda target: figure.savefig(target, format="png", dpi=150))


def _label(row: Measurement) -> str:
    parts = [row.model, f"{row.pixels} px"]
    if row.precision != "float32":
        parts.append(row.precision)
    if row.compiled:
        parts.append("compiled")
    return ", ".join(parts)
