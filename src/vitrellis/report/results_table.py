"""A finished run in a few lines."""

from __future__ import annotations

from typing import Any


def results_lines(results: dict[str, Any]) -> list[str]:
    """What `results.json` says, for a person: best and last checkpoint, then the cost.

    Args:
        results: As the trainer wrote it; accuracies are fractions.
    """
    lines = []
    for name in ("best", "last"):
        figures = results[name]
        if figures["epoch"] is None:
            lines.append(f"{name}  not chosen: there are no validation images")
            continue
        line = f"{name}  epoch {figures['epoch'] + 1} of {results['epochs']}"
        if figures.get("val_top1") is not None:
            line += f"  val {100 * figures['val_top1']:.2f} %"
        if results.get("select_by") == "balanced_accuracy" and "val_balanced" in figures:
            line += f" (balanced {100 * figures['val_balanced']:.2f} %)"
        if "test" in figures:
            test = figures["test"]
            line += f"  test {100 * test['top1']:.2f} %, macro-F1 {100 * test['macro_f1']:.2f} %"
        lines.append(line)
        lines += _group_lines(figures.get("test", {}))
    if "test" not in results["last"]:
        lines.append("no test figures, as there are no test images")
    speed = results["images_per_second"]
    if speed is not None:
        lines.append(f"cost  {results['seconds']:.1f} s of training, {speed:,.0f} images/s")
    return lines


def _group_lines(test: dict[str, Any]) -> list[str]:
    """Accuracy as a mean over classes, where some have many training images and some few."""
    lines = []
    for grouping in test.get("groups", []):
        accuracies = {name: grouping[name]["accuracy"] for name in ("head", "mid", "tail")}
        parts = [
            f"{name} {'-' if value is None else f'{100 * value:.2f} %'}"
            for name, value in accuracies.items()
        ]
        balanced = f"balanced {100 * test['balanced_accuracy']:.2f} %"
        lines.append(f"      {balanced}  {'  '.join(parts)}  (by {grouping['by']})")
    return lines
