"""`vitrellis verify`: reads every file of a run, and says which are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.shared_options import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from vitrellis.runs.verification import Verification


def verify(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run directory, or a folder of stored features."),
    ],
    accept: Annotated[
        bool,
        typer.Option(
            "--accept",
            help="First give the recipe, JSON files and metrics that you changed on purpose the "
            "checksums of their present content.",
        ),
    ] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Read every file of a run, and say which are damaged or missing.

    Files are compared with the checksums that they were written with. Runs of earlier versions
    have none: their files are read, and called unchecked. The exit code is 1 if a file is damaged
    or missing. Nothing is changed without --accept.

    Examples:
      vitrellis verify runs/photos
      vitrellis verify runs/teachers/photos-teacher-41602fedade5 --json
      vitrellis verify runs/features/teacher-0c8ee2ae4b57
      vitrellis verify runs/photos --accept
    """
    from vitrellis.cli.console import print_json, progress_console
    from vitrellis.errors import UsageError, VitrellisError

    path = run.expanduser()
    if (path / "features.json").is_file():
        if accept:
            raise UsageError(f"--accept: {run} holds stored outputs, which are computed again")
        checked = _store(path)
    else:
        checked = _run(path, progress_console(quiet=quiet), accept=accept)
    if as_json:
        print_json(
            {
                "run": str(run),
                "good": checked.is_good,
                "files": [
                    {"file": file.file, "state": file.state, "detail": file.detail}
                    for file in checked.files
                ],
                "others": list(checked.others),
            }
        )
    else:
        _print(checked)
    if not checked.is_good:
        raise typer.Exit(VitrellisError.exit_code)


def _run(path: Path, progress: Console, *, accept: bool) -> Verification:
    from vitrellis.cli.console import print_notes
    from vitrellis.runs.directory import RunDirectory, find_run
    from vitrellis.runs.verification import accept_changes, verify_run

    run = RunDirectory(path)
    if not run.marker_file.is_file():
        run = RunDirectory(find_run(path, checks_recipe=False).path)
    if accept:
        notes = [f"{file}: taken as it is" for file in accept_changes(run)]
        print_notes(progress, notes or ["no file was changed"])
    return verify_run(run)


def _store(path: Path) -> Verification:
    """A folder of a teacher's stored outputs, as if it were one file."""
    from vitrellis.errors import VitrellisError
    from vitrellis.runs.verification import Verification, Verified
    from vitrellis.teachers.precomputed import check_store

    try:
        detail = f"outputs for {check_store(path)} images"
    except VitrellisError as error:
        return Verification((Verified(".", "damaged", str(error)),), ())
    return Verification((Verified(".", "ok", detail),), ())


def _print(checked: Verification) -> None:
    from vitrellis.cli.console import console, error_console, new_table, print_table

    table = new_table("file", "state")
    for file in checked.files:
        table.add_row(file.file, file.state)
    print_table(table)
    if checked.others:
        others = ", ".join(checked.others)
        console.print(f"not written by training: {others}", highlight=False, markup=False)
    for file in checked.files:
        if file.detail:
            bad = file.state in ("damaged", "missing")
            on = error_console if bad else console
            on.print(file.detail, highlight=False, markup=False, soft_wrap=True)
    if checked.is_good:
        unchecked = sum(file.state == "unchecked" for file in checked.files)
        without = f"; {unchecked} of {len(checked.files)} have no checksum" if unchecked else ""
        console.print(f"Nothing is damaged or missing{without}.", highlight=False)
