"""How far a run has come, as its checkpoints hold it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrainingProgress:
    """The position of a run. Epochs and steps are 0-based; `seconds` counts training steps only.

    Attributes:
        epoch: The current epoch, or the next one between two epochs.
        step: The steps of the current epoch that are done.
        seconds: The time spent in training steps, without evaluation and saving.
        seconds_before: The part of `seconds` that was spent before the current epoch.
        waited: The seconds of the current epoch that were spent waiting for batches.
        best_figure: The highest value so far of the figure that the best epoch is chosen by.
        best_top1: The validation accuracy of the best epoch, as a fraction.
        best_epoch: The best epoch so far.
        sums: Sums over the images of the current epoch, in a checkpoint: losses, right answers
            (`correct`) and `images`.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    seconds_before: float = 0.0
    waited: float = 0.0
    best_figure: float | None = None
    best_top1: float | None = None
    best_epoch: int | None = None
    sums: dict[str, list[float]] = field(default_factory=dict)
