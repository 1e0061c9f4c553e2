"""The confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from vitrellis.analysis.metrics import Evaluation
from vitrellis.training.atomic import atomic_write

MOST_NUMBERS = 20
"""Classes up to which counts are written into the cells and names along the sides."""


def draw_confusion(evaluation: Evaluation, path: Path, *, title: str) -> None:
    """Draws rows of true classes, shaded by the share of the row.

    Args:
        evaluation: Its confusion matrix is drawn.
        path: The PNG file.
        title: Above the picture.

    Raises:
        VitrellisError: If the file cannot be written.
    """
    counts = evaluation.confusion
    num_classes = len(counts)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
    side = 3 + 0.45 * min(num_classes, MOST_NUMBERS)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    if num_classes <= MOST_NUMBERS:
        axes.set_xticks(range(num_classes), evaluation.class_names, rotation=45, ha="right")
        axes.set_yticks(range(num_classes), evaluation.class_names)
        for row in range(num_classes):
            for column in range(num_classes):
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = str(int(counts[row, column]))
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, label="share of the true class", shrink=0.8)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
