"""`vitrellis models`: what can be trained."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.progress import Progress

from vitrellis.cli.console import error_console, new_table, print_json, print_table
from vitrellis.errors import UsageError


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that can be students or teachers.

    Those of the published systems, from this package or from timm, each with its parameters and
    its multiply-adds for one image of these pixels. With --all and no filter, names only. What
    models cost here, at any size, `vitrellis bench` measures.

    Examples:
      vitrellis models
      vitrellis models resnet --num-classes 100
      vitrellis models --all "deit_*"
    """
    names = _names(pattern, all_models)
    rows = _rows(names, num_classes, counted=bool(pattern) or not all_models)
    if as_json:
        print_json(rows)
        return
    table = new_table("model", f">parameters ({num_classes} classes)", ">pixels", ">MACs")
    for row in rows:
        parameters, macs = row["parameters"], row["macs"]
        height, width = row["img_size"]
        table.add_row(
            row["name"],
            "" if parameters is None else f"{parameters:,}",
            str(height) if height == width else f"{height}x{width}",
            "" if macs is None else f"{macs / 1e6:,.0f} M",
        )
    print_table(table)


def _names(pattern: str, all_models: bool) -> list[str]:
    """Models that the pattern chooses: this package's, then timm's."""
    import timm

    from vitrellis.models import IN_TIMM, list_models

    ours = list_models()
    theirs = sorted(set(timm.list_models()) - set(ours)) if all_models else list(IN_TIMM)
    return _matching(pattern, [*ours, *theirs], all_models)


def _rows(names: Sequence[str], num_classes: int, *, counted: bool) -> list[dict[str, Any]]:
    rows = []
    with Progress(
        console=error_console, transient=True, disable=not error_console.is_terminal
    ) as progress:
        for name in progress.track(names, description="Counting"):
            size = _default_size(name)
            parameters, macs = _count(name, num_classes, size) if counted else (None, None)
            rows.append({"name": name, "parameters": parameters, "img_size": size, "macs": macs})
    return rows


def _matching(pattern: str, names: Sequence[str], all_models: bool) -> list[str]:
    is_glob = any(sign in pattern for sign in "*?[")
    wanted = pattern if is_glob else f"*{pattern}*"
    chosen = [name for name in names if fnmatch.fnmatchcase(name, wanted)]
    if not chosen:
        nearest = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        more = "" if all_models else " `vitrellis models --all` also has the models of timm."
        raise UsageError(f"no model matches {pattern!r}.{hint}{more}")
    return chosen


def _count(name: str, num_classes: int, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters and multiply-adds."""
    import torch

    from vitrellis.analysis.cost import count_macs
    from vitrellis.models import create_model

    with torch.device("meta"):  # shapes without memory
        model = create_model(name, num_classes=num_classes)
    return sum(parameter.numel() for parameter in model.parameters()), count_macs(model, (3, *size))


def _default_size(name: str) -> tuple[int, int]:
    import timm

    config = timm.get_pretrained_cfg(name)
    height, width = config.input_size[1:] if config is not None else (224, 224)
    return int(height), int(width)
