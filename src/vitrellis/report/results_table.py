"""A finished run in a few lines."""

from __future__ import annotations

from vitrellis.runs.results import CheckpointFigures, Results, SplitFigures


def results_lines(results: Results) -> list[str]:
    """Lines for a person: the best and the last checkpoint, then the cost.

    Args:
        results: The content of `results.json`; accuracies are fractions.
    """
    lines = []
    rows = [("best", results.best), ("last", results.last)]
    if results.without_ema is not None:
        rows.append(("last, without EMA", results.without_ema))
    for name, figures in rows:
        if figures.epoch is None:
            lines.append(f"{name}  not chosen: there are no validation images")
            continue
        lines.append(
            f"{name}  epoch {figures.epoch + 1} of {results.epochs}{_figures(figures, results)}"
        )
        if figures.test is not None:
            lines += _group_lines(figures.test)
    if results.last.test is None:
        lines.append("no test figures, as there are no test images")
    if results.images_per_second is not None:
        lines.append(
            f"cost  {results.seconds:.1f} s of training, {results.images_per_second:,.0f} images/s"
        )
    return lines


def _figures(figures: CheckpointFigures, results: Results) -> str:
    text = ""
    if figures.val_top1 is not None:
        text += f"  val {100 * figures.val_top1:.2f} %"
    if results.select_by == "balanced_accuracy" and figures.val_balanced is not None:
        text += f" (balanced {100 * figures.val_balanced:.2f} %)"
    if figures.test is not None:
        top1, macro_f1 = figures.test.top1, figures.test.macro_f1
        text += f"  test {100 * top1:.2f} %, macro-F1 {100 * macro_f1:.2f} %"
    return text


def _group_lines(test: SplitFigures) -> list[str]:
    """Class-balanced accuracy, of all classes and by group, for each way of grouping them."""
    lines = []
    for grouping in test.groups:
        parts = [
            f"{name} {'-' if value is None else f'{100 * value:.2f} %'}"
            for name, value in grouping.accuracies.items()
        ]
        balanced = f"balanced {100 * test.balanced_accuracy:.2f} %"
        lines.append(f"      {balanced}  {'  '.join(parts)}  (by {grouping.by})")
    return lines
