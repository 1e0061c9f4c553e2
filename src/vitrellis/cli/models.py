"""`vitrellis models`: the models that can be trained."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console

from vitrellis.cli.bench import default_size
from vitrellis.cli.console import (
    Quiet,
    new_table,
    print_json,
    print_table,
    progress_console,
)
from vitrellis.cli.model_costs import ModelCosts
from vitrellis.cli.shared_options import JsonOption
from vitrellis.errors import UsageError


@dataclass(frozen=True)
class _Row:
    """A model; parameters and multiply-adds are None where they were not counted."""

    name: str
    parameters: int | None
    img_size: tuple[int, int]
    macs: int | None


def models(
    pattern: Annotated[
        str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern such as dhvt*.")
    ] = "",
    all_models: Annotated[
        bool, typer.Option("--all", help="Also all other models of timm; any can be trained.")
    ] = False,
    num_classes: Annotated[
        int, typer.Option(min=1, help="Number of classes for which parameters are counted.")
    ] = 10,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """List the models that can be students or teachers.

    The list has the models of the published systems, from this package or from timm, with their
    parameters and their multiply-adds for one image of the size shown. With --all and no filter,
    it has names only. What was counted once is kept in the user's cache folder. `vitrellis bench`
    measures the cost of models here, at any size.

    Examples:
      vitrellis models
      vitrellis models resnet --num-classes 100
      vitrellis models --all "deit_*" --json
    """
    names = _names(pattern, all_models)
    counted = bool(pattern) or not all_models
    rows = _rows(names, num_classes, progress_console(quiet=quiet), counted=counted)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = new_table("model", f">parameters ({num_classes} classes)", ">pixels", ">MACs")
    for row in rows:
        height, width = row.img_size
        table.add_row(
            row.name,
            "" if row.parameters is None else f"{row.parameters:,}",
            str(height) if height == width else f"{height}x{width}",
            "" if row.macs is None else f"{row.macs / 1e6:,.0f} M",
        )
    print_table(table)


def _names(pattern: str, all_models: bool) -> list[str]:
    """The names that match the pattern: models of this package, then of timm."""
    import timm

    from vitrellis.models import IN_TIMM, list_models

    ours = list_models()
    theirs = sorted(set(timm.list_models()) - set(ours)) if all_models else list(IN_TIMM)
    return _matching(pattern, [*ours, *theirs], all_models)


def _matching(pattern: str, names: Sequence[str], all_models: bool) -> list[str]:
    is_glob = any(sign in pattern for sign in "*?[")
    glob = pattern if is_glob else f"*{pattern}*"
    matching = [name for name in names if fnmatch.fnmatchcase(name, glob)]
    if not matching:
        nearest = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        more = "" if all_models else " `vitrellis models --all` also has the models of timm."
        raise UsageError(f"no model matches {pattern!r}.{hint}{more}")
    return matching


def _rows(names: Sequence[str], num_classes: int, console: Console, *, counted: bool) -> list[_Row]:
    from vitrellis.training.display import reading

    rows = []
    costs = ModelCosts()
    with reading(console, "counting") as progress:
        for name in names:
            size = default_size(name)
            parameters, macs = costs.get(name, num_classes, size) if counted else (None, None)
            rows.append(_Row(name, parameters, size, macs))
            progress(len(rows), len(names))
    costs.keep()
    return rows
