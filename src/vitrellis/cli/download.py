"""`vitrellis data download`: fetches a published dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vitrellis.cli.console import console, error_console


def download(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="cifar10, cifar100, flowers102 or fashion-mnist."),
    ],
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for it, which becomes data.root.")
    ] = Path("data"),
) -> None:
    """Download a published dataset, and say how to train on it.

    Addresses and checksums are torchvision's. A download that was interrupted continues with the
    same command, and what is there already is not fetched again. One folder can hold all of them.

    Examples:
      vitrellis data download cifar100
      vitrellis data download flowers102 --root ~/datasets
    """
    from vitrellis.data.downloads.published_archives import download as fetch_dataset

    done = fetch_dataset(name, root.expanduser(), _progress)
    for place in done.fetched:
        _line(f"downloaded and checked: {place}")
    if not done.fetched:
        _line(f"everything is there, nothing was downloaded: {', '.join(map(str, done.present))}")
    _line(f"Train with:  {done.command}")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar that counts bytes; it disappears at the end."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    is_shown = error_console.is_terminal
    with Progress(*columns, console=error_console, transient=True, disable=not is_shown) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
