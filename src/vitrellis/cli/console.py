"""Prints tables and lines on standard output, and errors on standard error.

In a terminal, output is coloured and fitted to its width. Elsewhere it is plain, and lines are as
long as they need to be.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitrellis.errors import VitrellisError

_WIDE = 1000  # columns; no table of ours needs as many

console = Console(markup=False)  # names of files and classes may have [brackets]
"""The console for standard output."""

error_console = Console(stderr=True, markup=False)
"""The console for standard error."""


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results and errors, but no progress.")
]
"""The option of commands that show progress."""


def quiet_console() -> Console:
    """A console that prints nothing."""
    # as if on no terminal, where a bar would take over what others print, to print nothing of it
    return Console(quiet=True, force_terminal=False)


def progress_console(*, quiet: bool) -> Console:
    """The console for the progress of a command that prints its results on standard output.

    Args:
        quiet: Whether no progress is wanted.
    """
    return quiet_console() if quiet else error_console


def training_console(*, quiet: bool, as_json: bool = False) -> Console:
    """The console for the progress of a command that trains: standard output, if that is free.

    Args:
        quiet: Whether no progress is wanted.
        as_json: Whether nothing but JSON may be on standard output.
    """
    return progress_console(quiet=quiet) if quiet or as_json else console


def fail(error: VitrellisError, *, process: int = 0) -> None:
    """Prints an error in red, without a traceback.

    Args:
        error: The error.
        process: The number of this process, which is named if it is not the first.
    """
    where = f" in process {process}" if process else ""
    text = Text(f"error{where}: ", style="bold red") + Text(str(error), style="red")
    error_console.print(text, soft_wrap=True)


def process_number() -> int:
    """The number of this process among those that work together; 0 for the first, or alone.

    torchrun sets the first variable, Lightning's own launcher the second, and Slurm the third, for
    single processes as well.
    """
    variables = ["RANK", "LOCAL_RANK"]
    if os.environ.get("SLURM_NTASKS", "1") != "1":
        variables.append("SLURM_PROCID")
    for variable in variables:
        text = os.environ.get(variable, "")
        if text.isdecimal():
            return int(text)
    return 0


def print_notes(on: Console, notes: Sequence[str]) -> None:
    """Prints notes, once for all processes of a run.

    Args:
        on: The console to print on.
        notes: Sentences, without the word "note".
    """
    if process_number() == 0:  # the others run the same command
        for note in notes:
            on.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def print_line(text: str) -> None:
    """Prints a line of results, however long, as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(values: object) -> None:
    """Prints JSON for other programs; nothing else may be printed beside it.

    Args:
        values: Dictionaries, sequences, strings, numbers and None.

    Raises:
        VitrellisError: If a number is NaN or infinite, which would be no JSON.
    """
    from vitrellis.runs.atomic import as_json

    typer.echo(as_json(values, "--json", indent=2, ensure_ascii=False))


def new_table(*columns: str) -> Table:
    """An empty table; columns whose heading begins with `>` align to the right, for numbers.

    Args:
        *columns: The headings.
    """
    is_fancy = console.is_terminal
    table = Table(
        box=box.SIMPLE_HEAD if is_fancy else None,
        pad_edge=False,
        show_edge=False,
        collapse_padding=is_fancy,  # the box adds a column of its own between two
    )
    for position, column in enumerate(columns):
        table.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=position == 0 or not is_fancy,
        )
    return table


def print_table(table: Table) -> None:
    """Prints a table from `new_table`."""
    if console.is_terminal:
        console.print(table)
        return
    plain = Console(width=_WIDE, file=io.StringIO(), markup=False)
    with plain.capture() as captured:
        plain.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def help_of(command: Callable[..., Any]) -> str:
    """A command's docstring as its help text, with the lines of its examples kept as they are."""
    text = inspect.cleandoc(command.__doc__ or "")
    return text.replace("\n\nExamples:\n", "\n\n\b\nExamples:\n")  # click's sign for "do not fill"
