"""A progress bar for passes over images, shown on standard error in a terminal."""

from __future__ import annotations

from torch import nn

from vitrellis.analysis.inference import Predictions, collect_predictions
from vitrellis.data.loader import EvalLoader


def track_predictions(model: nn.Module, loader: EvalLoader, title: str) -> Predictions:
    """`collect_predictions` with a progress bar.

    Args:
        model: On the loader's device.
        loader: Of the images.
        title: What they are.
    """
    from rich.progress import Progress

    from vitrellis.cli.console import error_console

    with Progress(
        console=error_console, transient=True, disable=not error_console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=len(loader))
        return collect_predictions(model, loader, lambda: progress.advance(task))
