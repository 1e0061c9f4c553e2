"""`vitrellis data download`: fetches a published dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vitrellis.cli.console import Quiet, print_json, print_line, progress_console
from vitrellis.cli.shared_options import JsonOption, output_folder


def download(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="cifar10, cifar100, flowers102 or fashion-mnist."),
    ],
    root: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="The folder for it, which becomes data.root.",
            callback=output_folder,
        ),
    ] = Path("data"),
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Download a published dataset, and say how to train on it.

    Addresses and checksums are torchvision's. A download that was interrupted continues with the
    same command, and what is there already is not fetched again. One folder can hold all of them.

    Examples:
      vitrellis data download cifar100
      vitrellis data download flowers102 --root ~/datasets
    """
    from vitrellis.data.downloads.published_archives import download as fetch_dataset

    progress = partial(_progress, progress_console(quiet=quiet))
    done = fetch_dataset(name, root, progress)
    if as_json:
        values = asdict(done) | {"fetched": list(map(str, done.fetched))}
        print_json(values | {"present": list(map(str, done.present))})
        return
    for place in done.fetched:
        print_line(f"downloaded and checked: {place}")
    if not done.fetched:
        print_line(
            f"everything is there, nothing was downloaded: {', '.join(map(str, done.present))}"
        )
    print_line(f"Train with:  {done.command}")


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Callable[[int, int | None], None]]:
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
    is_shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
