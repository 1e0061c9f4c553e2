"""Progress of a run: a live bar on a terminal, one plain line per epoch elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vitrellis.runs.results import EpochRow

MUCH_WAITING = 0.1
"""The share of an epoch's time from which it is said that training waits for images."""
PLAIN_INTERVAL = 2.0
"""The least number of seconds between two plain lines, so that short epochs do not fill a log."""


@contextmanager
def reading(
    console: Console, title: str = "reading images"
) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for a pass over the images before training; it disappears at the end.

    Args:
        console: The console that shows it.
        title: The title of the bar.

    Yields:
        The function to call with the number of images that are done, and of all images.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


class Display:
    """Shows a run's progress. Only process 0 should be given a console that is not quiet.

    Args:
        console: The console that shows the progress.
        title: The name of the recipe.
        epochs: The number of epochs.
        steps_per_epoch: The number of optimizer steps in an epoch.
    """

    def __init__(self, console: Console, title: str, epochs: int, steps_per_epoch: int) -> None:
        self._console = console
        self._title = title
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._recent: deque[tuple[float, int]] = deque(maxlen=200)
        self._last_line = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=epochs * steps_per_epoch, text="")
        self._parts = ""

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def start_at(self, epoch: int, step: int) -> None:
        """Moves the bar to the position at which a resumed run begins."""
        self._bar.update(self._task, completed=epoch * self._steps_per_epoch + step)
        self._recent.clear()

    def warn(self, text: str) -> None:
        """Prints a line that stays, above the bar if there is one."""
        self._console.print(
            f"{self._title}  warning: {text}", highlight=False, markup=False, soft_wrap=True
        )

    def advance(
        self, epoch: int, step: int, num_images: int, lr: float, keep_rate: float | None = None
    ) -> None:
        """Shows that a step is done.

        Args:
            epoch: The number of the epoch, 0-based.
            step: The number of the step in the epoch, from 1.
            num_images: The number of its images.
            lr: Its learning rate.
            keep_rate: Its keep rate of token pruning; None without.
        """
        self._recent.append((time.perf_counter(), num_images))
        text = ""
        if self._console.is_terminal:
            text = f"epoch {epoch + 1}/{self._epochs}  {self._parts}lr {lr:.2g}  "
            text += _kept(keep_rate)
            text += f"{self._images_per_second():,.0f} img/s"
        self._bar.update(self._task, completed=epoch * self._steps_per_epoch + step, text=text)

    def _images_per_second(self) -> float:
        """The speed over the last steps; 0 before the second one."""
        if len(self._recent) < 2:
            return 0.0
        seconds = self._recent[-1][0] - self._recent[0][0]
        images = sum(num_images for _, num_images in list(self._recent)[1:])
        return images / seconds if seconds > 0 else 0.0

    def epoch(self, row: EpochRow) -> None:
        """Shows the figures of an epoch that is done."""
        parts = "  ".join(f"{name} {value:.3f}" for name, value in row.parts.items())
        val = "" if row.val_top1 is None else f"val {100 * row.val_top1:.1f} %  "
        self._parts = f"{val}{parts}  {_waiting(row)}"
        is_last = row.epoch + 1 == self._epochs
        now = time.monotonic()
        if not self._console.is_terminal and (is_last or now - self._last_line >= PLAIN_INTERVAL):
            self._last_line = now
            speed = f"{_kept(row.keep_rate)}{row.images_per_second:,.0f} img/s"
            self._console.print(
                f"{self._title}  epoch {row.epoch + 1}/{self._epochs}  loss {row.loss:.3f}  "
                f"{self._parts}lr {row.lr:.2g}  {speed}  "
                f"{self._time_left()}",
                soft_wrap=True,
                highlight=False,
            )
        self._recent.clear()  # evaluation and saving must not count as training time

    def _time_left(self) -> str:
        left = self._bar.tasks[0].time_remaining
        return "" if left is None else f"{left:.0f} s left"


def _waiting(row: EpochRow) -> str:
    """The share of the time that is lost to reading images, if it is large."""
    if row.waiting is None or row.waiting < MUCH_WAITING:
        return ""
    return f"{100 * row.waiting:.0f} % of the time spent waiting for images  "


def _kept(keep_rate: float | None) -> str:
    """The keep rate, where there is one."""
    return "" if keep_rate is None else f"keep {keep_rate:.3f}  "
