"""Shows trainings that run side by side: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_TAIL_BYTES = 4096
_SHOWN_AT_END = 5
"""The number of trainings that are done whose lines stay; all that failed stay."""
_STYLES = {"running": "bold", "done": "green", "failed": "red", "stopped": "yellow"}


@dataclass
class _Row:
    """A line of the table."""

    name: str
    state: str
    text: str
    log: Path
    started: float
    seconds: float = 0.0


class JobDisplay:
    """Shows what is waiting, running, done and failed, within the block that it opens.

    Args:
        console: The console to show it on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, _Row] = {}
        self._num_waiting = 0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> JobDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
            for row in self._rows.values():
                self._print(row)

    def start(self, name: str, log: Path, num_waiting: int) -> None:
        """Shows that a training was started.

        Args:
            name: Its name.
            log: The file that holds what it prints.
            num_waiting: The number of trainings that are still to be started.
        """
        self._rows[name] = _Row(name, "running", "", log, time.monotonic())
        self._num_waiting = num_waiting
        if not self._console.is_terminal:
            self._console.print(
                f"{name}: running, {num_waiting} waiting; {log}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def end(self, name: str, state: str, text: str, num_waiting: int) -> None:
        """Shows that a training has ended.

        Args:
            name: Its name.
            state: "done", "failed" or "stopped".
            text: Its figures, or its error.
            num_waiting: The number of trainings that are still to be started.
        """
        row = self._rows[name]
        row.state, row.text, row.seconds = state, text, time.monotonic() - row.started
        self._num_waiting = num_waiting
        if not self._console.is_terminal:
            self._print(row)

    def refresh(self) -> None:
        """Draws the table again, with the last line of what each training printed."""
        if self._console.is_terminal:
            self._live.update(self._table(), refresh=True)

    def _print(self, row: _Row) -> None:
        self._console.print(
            f"{row.name}: {row.state} after {_duration(row.seconds)}"
            + (f"  {row.text}" if row.text else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _table(self) -> Table:
        rows = list(self._rows.values())
        done = [row for row in rows if row.state == "done"]
        hidden = {row.name for row in done[:-_SHOWN_AT_END]}
        states = [row.state for row in rows]
        counts = [f"{self._num_waiting} waiting"]
        counts += [f"{states.count(state)} {state}" for state in _STYLES if state in states]
        table = Table(
            box=None, pad_edge=False, expand=True, show_header=False, title=", ".join(counts)
        )
        table.title_justify = "left"
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for row in rows:
            if row.name in hidden:
                continue
            text = row.text
            if row.state == "running":
                row.seconds = time.monotonic() - row.started
                text = _last_line(row.log) or "starting"
            table.add_row(
                Text(row.name),
                Text(row.state, style=_STYLES[row.state]),
                _duration(row.seconds),
                Text(" ".join(text.split())),
            )
        return table


def _last_line(log: Path) -> str | None:
    """The last line of a log that is not empty; None if there is none, or no log yet."""
    if not log.exists():  # a cluster has no room for the training yet
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES), os.SEEK_SET)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
