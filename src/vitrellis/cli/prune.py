"""`vitrellis prune`: fewer tokens for a finished run, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.shared_options import (
    DeviceOption,
    JsonOption,
    PrecisionOption,
    RootOption,
    output_file,
    output_folder,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitrellis.analysis.cost import Precision
    from vitrellis.assembly.pruned import Method, Reduction
    from vitrellis.data.loader import EvalLoader
    from vitrellis.experiments.keep_rate_search import SelectBy, Trials, Tried
    from vitrellis.recipe import Recipe
    from vitrellis.runs.directory import RunDirectory
    from vitrellis.runs.exported import Trained

_PUBLISHED_RATE = 0.7


_Out = Annotated[
    Path | None,
    typer.Option(
        help="The new run directory. Without it, nothing is written.", callback=output_folder
    ),
]
_Method = Annotated[
    Literal["evit", "tome"] | None,
    typer.Option(
        help="evit leaves out the tokens that the class token attends to least; tome merges "
        "similar tokens. By default evit; with --target-speedup the better one.",
    ),
]
_KeepRate = Annotated[
    list[float] | None,
    typer.Option(
        help="The share of tokens that each shrinking layer keeps; may be repeated to compare. "
        "[default: 0.7 for evit, 0.9 for tome]",
    ),
]
_R = Annotated[
    int | None,
    typer.Option("--r", min=1, help="tome: merge so many tokens in each layer instead."),
]
_Layers = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="The layers that shrink, counted from 0. By default a quarter, a half and three "
        "quarters of the way (3,6,9 of twelve) for evit, and all for tome.",
    ),
]
_Fuse = Annotated[
    bool,
    typer.Option("--fuse/--drop", help="evit: add what is left out up to one token, or drop it."),
]
_TargetSpeedup = Annotated[
    float | None,
    typer.Option(help="Search the keep rate for so many times as many images per second."),
]
_NumImages = Annotated[
    int,
    typer.Option(
        "--num-images", "--images", min=1, help="The most validation images to evaluate on."
    ),
]
_Seconds = Annotated[float, typer.Option(min=0.0, help="Seconds for each measurement of speed.")]
_Plot = Annotated[
    Path | None,
    typer.Option(
        help="Draw accuracy against images per second into this PNG file.", callback=output_file
    ),
]


def prune(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    out: _Out = None,
    method: _Method = None,
    keep_rate: _KeepRate = None,
    r: _R = None,
    layers: _Layers = None,
    fuse: _Fuse = True,
    target_speedup: _TargetSpeedup = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch that is timed.")] = 32,
    num_images: _NumImages = 2000,
    seconds: _Seconds = 2.0,
    plot: _Plot = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Make a finished run faster: the same weights, with fewer tokens.

    Accuracy is measured on the run's validation images, never on test images, and speed on this
    machine, in turns with the same model that keeps all tokens. With --target-speedup, keep rates
    are searched, and the most accurate one that is fast enough is written to --out, or the command
    fails and says what was reached. The new run is used like any other: eval, predict, bench,
    export.

    Examples:
      vitrellis prune runs/photos --keep-rate 0.8 --keep-rate 0.6 --plot rates.png
      vitrellis prune runs/photos --keep-rate 0.7 --out runs/photos-fast
      vitrellis prune runs/photos --method tome --r 8 --out runs/photos-merged
      vitrellis prune runs/photos --target-speedup 1.5 --out runs/photos-fast --plot search.png
      vitrellis prune runs/photos --keep-rate 0.7 --device cuda --precision bfloat16
    """
    from vitrellis.analysis.cost import arithmetic
    from vitrellis.assembly.imported import check_new
    from vitrellis.cli.console import console, error_console
    from vitrellis.cli.pruning_table import report_trials, unreachable
    from vitrellis.errors import UsageError
    from vitrellis.runs.directory import RunDirectory, find_run
    from vitrellis.runs.exported import load_exported

    _check_words(method, keep_rate or [], r, target_speedup)
    if out is not None:
        check_new(RunDirectory(out))
        if len(keep_rate or []) > 1:
            raise UsageError("--out: one run is written, so give one --keep-rate, or leave it out")
    directory = find_run(run)
    trained = load_exported(directory.best_model)
    methods: list[Method] = ["evit", "tome"] if method is None and target_speedup else []
    templates = _templates(trained, run, methods or [method or "evit"], layers, fuse, bool(methods))
    recipe, images = _validation_images(directory, trained, root, num_images, device)
    trials = _trials(trained, images, batch_size, seconds, quiet=quiet)
    for note in _notes(trained, images):
        error_console.print(f"note: {run}: {note}", markup=False, soft_wrap=True)
    select_by: SelectBy = recipe.training.select_by
    # weights that a pass has cast are not kept for the next one
    with arithmetic(images.device, precision, keeps_casts=False):
        if target_speedup is not None:
            for template in templates:
                trials.search(template, target_speedup)
            chosen = trials.best(target_speedup, select_by)
        else:
            for reduction in _given(trained, templates[0], keep_rate, r):
                trials.attempt(reduction)
            chosen = trials.done[-1] if len(trials.done) == 2 else None
    report_trials(run, trials, chosen, batch_size, precision, plot=plot, as_json=as_json)
    if target_speedup is not None and chosen is None:
        raise unreachable(run, trials, target_speedup)
    if out is not None and chosen is not None:
        _write(directory, out, chosen, precision, as_json=as_json)
    elif chosen is not None and not as_json:
        console.print("Nothing was written; --out FOLDER makes a run of the chosen one.")


def _check_words(
    method: str | None, keep_rates: Sequence[float], r: int | None, target: float | None
) -> None:
    from vitrellis.errors import UsageError

    lowest = 0.5 if method == "tome" else 0.0
    for rate in keep_rates:
        if not 0 < rate < 1:
            raise UsageError(
                f"--keep-rate {rate:g}: should be above 0 and below 1; it is the share of tokens "
                "that a layer keeps, and 1 would keep all"
            )
        if rate < lowest:
            raise UsageError(
                f"--keep-rate {rate:g}: a layer that merges tokens in pairs keeps at least half of "
                "them. Give 0.5 or more, or --method evit"
            )
    if r is not None and method != "tome":
        raise UsageError("--r: is the number of tokens that --method tome merges in each layer")
    if r is not None and keep_rates:
        raise UsageError("--r and --keep-rate: choose one")
    if target is not None and (keep_rates or r is not None):
        raise UsageError("--target-speedup: searches the keep rate; leave out --keep-rate and --r")
    if target is not None and not target > 1:
        raise UsageError(
            f"--target-speedup {target:g}: should be above 1, such as 1.5 for half as many images "
            "per second again"
        )


def _templates(
    trained: Trained,
    run: Path,
    methods: Sequence[Method],
    layers: str | None,
    fuse: bool,
    any_method: bool,
) -> list[Reduction]:
    """The methods with their layers; the rate is still to be chosen.

    If any method will do, those that the model cannot do are left out.
    """
    from vitrellis.assembly.pruned import Reduction, check_can_prune, default_layers
    from vitrellis.errors import UsageError

    templates: list[Reduction] = []
    for method in methods:
        try:
            plain = check_can_prune(trained, run, method)
        except UsageError:
            if any_method and templates:
                continue
            raise
        depth = len(plain.get_submodule("blocks")._modules)
        chosen = default_layers(method, depth) if layers is None else _layers(layers, depth)
        rate = _PUBLISHED_RATE if method == "evit" else 0.9
        templates.append(Reduction(method, rate, chosen, fuse))
    return templates


def _layers(text: str, depth: int) -> tuple[int, ...]:
    """The numbers of `--layers`."""
    from vitrellis.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UsageError(
            f"--layers {text!r}: should be different whole numbers with commas between them, such "
            "as 3,6,9"
        )
    layers = tuple(sorted(map(int, parts)))
    if layers[-1] >= depth:
        raise UsageError(f"--layers {text}: there is no layer {layers[-1]}, only 0 to {depth - 1}")
    return layers


def _given(
    trained: Trained, template: Reduction, keep_rates: Sequence[float] | None, r: int | None
) -> list[Reduction]:
    """The reductions that the user asks for."""
    from dataclasses import replace

    from vitrellis.assembly.pruned import merging

    if r is not None:
        return [merging(trained, r, template.layers)]
    if not keep_rates:
        return [template]
    return [replace(template, keep_rate=float(rate)) for rate in keep_rates]


def _validation_images(
    run: RunDirectory, trained: Trained, root: Path | None, most: int, device: str
) -> tuple[Recipe, EvalLoader]:
    """The run's recipe, and its validation images, evenly spread if they are many."""
    import torch

    from vitrellis.assembly import build
    from vitrellis.assembly.images_of_run import images_of_run
    from vitrellis.cli.evaluate import check_images
    from vitrellis.errors import UsageError

    recipe, source = images_of_run(run, root)
    check_images(source, trained.class_names, run)
    if source.val is None:
        raise UsageError(
            f"{run.path}: its data has no validation images, by which keep rates could be judged; "
            "test images choose nothing. Train with data.val_fraction above 0, or prune in "
            "training (the recipe's section pruning)"
        )
    split = source.val
    if len(split) > most:
        split = split.subset(torch.arange(most) * len(split) // most)
    place = build.evaluation_place(device)
    loader = build.build_eval_loader(recipe, split, trained.preprocessing, place)
    return recipe, loader


def _trials(
    trained: Trained, loader: EvalLoader, batch_size: int, seconds: float, *, quiet: bool
) -> Trials:
    from vitrellis.cli.console import error_console
    from vitrellis.cli.pruning_table import cells_of
    from vitrellis.experiments.keep_rate_search import Trials

    def tell(tried: Tried) -> None:
        if error_console.is_terminal and not quiet:
            error_console.print("  ".join(cells_of(tried)), highlight=False, markup=False)

    return Trials(trained, loader, loader.device, batch_size, seconds, tell)


def _notes(trained: Trained, loader: EvalLoader) -> list[str]:
    from vitrellis.assembly.pruned import already_pruned

    notes = list(trained.notes)
    before = already_pruned(trained)
    if before is not None:
        notes.append(before)
    count = sum(len(batch.labels) for batch in loader)
    if count < 200:
        notes.append(f"accuracies on {count} validation images are uncertain by several points")
    return notes


def _write(
    run: RunDirectory, out: Path, chosen: Tried, precision: Precision, *, as_json: bool
) -> None:
    from vitrellis.assembly.pruned import write_pruned
    from vitrellis.cli.console import console, error_console
    from vitrellis.report.hardware import describe_hardware

    assert chosen.reduction is not None
    facts = {"pruned_by": chosen.to_json(), "measured_on": describe_hardware()}
    facts["precision"] = precision
    new = write_pruned(run, out, chosen.reduction, facts).path
    on = error_console if as_json else console
    on.print(f"Run: {new}\n  vitrellis eval {new}", highlight=False, markup=False, soft_wrap=True)
