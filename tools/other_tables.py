"""The tables of `photos` beside other tools, and of ours beside the published code."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vitrellis.report.pictures import COLOURS
from vitrellis.runs.atomic import atomic_write

BESIDE = "photos-beside-others.json"
REPRODUCTION = "reproduction.json"
FIGURE = "reproduction.png"
_TITLES = {
    "sign-digits": "Sign digits, 500 training images of ten classes",
    "magnetic-tiles": "Magnetic tiles, 914 training images of six classes",
    "clothing": "Clothing, 3,068 training images of ten classes",
}
_LOSSES = {"cross_entropy": "cross-entropy", "locality": "locality (without its weight)"}


def beside_tables(folder: Path) -> list[str]:
    """A table for each set of images: `photos`, its teacher, and what others give."""
    rows = json.loads((folder / BESIDE).read_text())["rows"]
    lines = []
    for name, title in _TITLES.items():
        own = sorted((row for row in rows if row["images"] == name), key=lambda row: -row["top1"])
        if not own:
            continue
        hardware = "; ".join(dict.fromkeys(row["hardware"] for row in own))
        lines += [
            f"### {title}",
            "",
            f"{hardware}.",
            "",
            "| | test accuracy | class-balanced | validation | epochs | processor seconds |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for row in own:
            shown = f"**{row['name']}**" if row["name"] == "photos" else row["name"]
            figures = [row[key] for key in ("top1", "balanced_accuracy", "validation")]
            cells = [shown, *(f"{100 * figure:.1f}" for figure in figures)]
            lines.append(f"| {' | '.join([*cells, str(row['epochs']), str(row['seconds'])])} |")
        lines.append("")
    return lines[:-1]


def reproduction_table(folder: Path) -> list[str]:
    """The losses of some epochs and the accuracy at the end: the published code's, and ours."""
    content = json.loads((folder / REPRODUCTION).read_text())
    theirs, ours = (_of(content["rows"], code) for code in ("published", "ours"))
    head = [f"{name}, {code}" for name in _LOSSES.values() for code in ("published", "ours")]
    lines = [f"| epoch | {' | '.join(head)} |", f"|--:|{'--:|' * len(head)}"]
    last = content["epochs"] - 1
    for epoch in sorted({*range(0, last, max(1, last // 6)), last}):
        cells = [
            _spread([row["curve"][epoch][loss] for row in rows], 3)
            for loss in _LOSSES
            for rows in (theirs, ours)
        ]
        lines.append(f"| {epoch + 1} | {' | '.join(cells)} |")
    accuracies = [_spread([100 * row["top1"] for row in rows], 1) for rows in (theirs, ours)]
    seeds = len(theirs)
    hardware = "; ".join(dict.fromkeys(row["hardware"] for row in content["rows"]))
    return [
        *lines,
        "",
        f"After the last epoch, {accuracies[0]} % of the 10,000 test images are right with the "
        f"published code, and {accuracies[1]} % with ours ({seeds} seed{'s' * (seeds > 1)} of "
        f"each; {hardware}). Their teacher is right on {100 * content['teacher_top1']:.1f} %.",
        "",
        *(_differences(loss, title, theirs, ours) for loss, title in _LOSSES.items()),
    ]


def _differences(
    loss: str, title: str, theirs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]
) -> str:
    """How far the two codes are apart in a loss at the most, and how far seeds of one are."""

    def each(rows: Sequence[dict[str, Any]]) -> np.ndarray:
        return np.array([[epoch[loss] for epoch in row["curve"]] for row in rows])

    apart = np.abs(each(theirs).mean(axis=0) - each(ours).mean(axis=0))
    seeds = [np.ptp(each(rows), axis=0).max() for rows in (theirs, ours)]
    lower = int((each(ours).mean(axis=0) < each(theirs).mean(axis=0)).sum())
    return (
        f"- {title}: the means of both codes differ by at most {apart.max():.3f} (epoch "
        f"{apart.argmax() + 1}); seeds of the published code by at most {seeds[0]:.3f}, seeds of "
        f"ours by {seeds[1]:.3f}. Ours is the lower one in {lower} of {len(apart)} epochs."
    )


def draw_reproduction(folder: Path) -> None:
    """Draws the losses of every run against epochs."""
    rows = json.loads((folder / REPRODUCTION).read_text())["rows"]
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    for (loss, title), axes in zip(_LOSSES.items(), figure.subplots(1, 2), strict=True):
        for code, colour, style in (("published", COLOURS[0], "-"), ("ours", COLOURS[1], "--")):
            for number, row in enumerate(_of(rows, code)):
                x = [each["epoch"] + 1 for each in row["curve"]]
                y = [each[loss] for each in row["curve"]]
                label = f"{code}, a line for each seed" if number == 0 else None
                axes.plot(x, y, style, color=colour, linewidth=1.4, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    atomic_write(folder / FIGURE, lambda target: figure.savefig(target, format="png", dpi=110))


def _of(rows: Sequence[dict[str, Any]], code: str) -> list[dict[str, Any]]:
    return sorted((row for row in rows if row["code"] == code), key=lambda row: row["seed"])


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over the seeds."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


OTHER_PARTS = {
    "docs/results/photos-search.md": beside_tables,
    "docs/results/reproduction.md": reproduction_table,
}
"""What writes the part of each page between the two comments, from the folder of results."""
