"""`vitrellis eval`: the figures of a run's model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.shared_options import (
    DeviceOption,
    PrecisionOption,
    RootOption,
    WeightsOption,
    WithoutEmaOption,
    output_file,
)

if TYPE_CHECKING:
    from rich.console import Console

    from vitrellis.analysis.breakdown import Breakdown
    from vitrellis.analysis.cost import Precision
    from vitrellis.analysis.groups import Grouping
    from vitrellis.analysis.inference import Gather
    from vitrellis.assembly.build import Place
    from vitrellis.data.sources import Source, Split
    from vitrellis.runs.directory import RunDirectory


_Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        "--confusion",
        help="Draw the confusion matrix into this PNG file.",
        callback=output_file,
    ),
]
_PlotCounts = Annotated[
    Path | None,
    typer.Option(
        help="Draw accuracy against training images into this PNG file.", callback=output_file
    ),
]


@dataclass(frozen=True)
class _Machine:
    """On what the model is run, and where progress is shown."""

    place: Place
    gather: Gather
    precision: Precision
    console: Console


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    split: Annotated[
        Literal["test", "val", "train"] | None,
        typer.Option(help="The images. By default test, or val if there are no test images."),
    ] = None,
    weights: WeightsOption = "best",
    without_ema: WithoutEmaOption = False,
    root: RootOption = None,
    plot: _Plot = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="MANY,FEW",
            help="Head classes have more training images than MANY, tail classes fewer than FEW. "
            "By default 100,20 and the published cuts, if class sizes differ by a factor of two.",
        ),
    ] = None,
    plot_counts: _PlotCounts = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all figures.")] = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run: accuracy, per class, per group, confusion, calibration.

    The images are those of the run's recipe, with the same splits. Test images were not used for
    model selection; the best checkpoint was chosen by its figures on the validation images.

    A model with a distillation head also has figures for each head. Under torchrun or srun, each
    process evaluates a part of the images, and the first prints the figures of all.

    Examples:
      vitrellis eval runs/photos
      vitrellis eval runs/photos --split val --weights last
      vitrellis eval runs/photos --json > figures.json
      vitrellis eval runs/photos --plot confusion.png
      torchrun --nproc-per-node 4 -m vitrellis eval runs/photos
      vitrellis eval runs/photos --groups 50,10 --plot-counts counts.png
    """
    from vitrellis.assembly.processes import evaluation_processes
    from vitrellis.cli.console import print_json, process_number, progress_console
    from vitrellis.cli.figures import print_figures
    from vitrellis.runs.directory import find_run
    from vitrellis.training.gathering import failing_together

    thresholds = None if groups is None else _thresholds(groups)
    place, gather = evaluation_processes(device)
    machine = _Machine(place, gather, precision, progress_console(quiet=quiet))
    with failing_together(gather):
        directory = find_run(run)
        counts = _training_counts(directory, is_needed=bool(groups or plot_counts))
        folder = directory.model_folder(weights, without_ema=without_ema)
        name, breakdown = _evaluated(directory, folder, split, root, counts, thresholds, machine)
    ema = " without EMA" if without_ema else ""
    title = f"{run}: {weights} checkpoint{ema}, {breakdown.overall.num_images:,} {name} images"
    if process_number() > 0:
        return  # the first process has the figures of all images, too, and prints them
    if plot is not None:
        from vitrellis.report.pictures import draw_confusion

        draw_confusion(breakdown.overall, plot, title=title)
    if plot_counts is not None:
        from vitrellis.report.pictures import draw_counts

        draw_counts(breakdown, plot_counts, title=title)
    if as_json:
        print_json({"run": str(run), "split": name, "weights": weights + ema} | breakdown.to_json())
    else:
        print_figures(breakdown, title)


def _evaluated(
    run: RunDirectory,
    folder: Path,
    split: str | None,
    root: Path | None,
    counts: list[int] | None,
    thresholds: tuple[int, int] | None,
    machine: _Machine,
) -> tuple[str, Breakdown]:
    """The name of the split, and the figures."""
    from vitrellis.analysis.breakdown import Breakdown
    from vitrellis.analysis.cost import arithmetic
    from vitrellis.analysis.groups import by_count, groupings
    from vitrellis.analysis.inference import collect_from_all
    from vitrellis.assembly import build
    from vitrellis.assembly.images_of_run import images_of_run
    from vitrellis.cli.console import error_console
    from vitrellis.runs.exported import load_exported
    from vitrellis.training.display import reading

    trained = load_exported(folder)
    recipe, source = images_of_run(run, root)
    for note in trained.notes:
        error_console.print(f"note: {note}", markup=False, soft_wrap=True)
    check_images(source, trained.class_names, run)
    name, images = choose_split(source, split, run)
    place = machine.place
    loader = build.build_eval_loader(recipe, images, trained.preprocessing, place)
    model = trained.model.to(place.device)
    with (
        arithmetic(place.device, machine.precision),
        reading(machine.console, f"{name} images") as progress,
    ):
        predictions = collect_from_all(model, loader, machine.gather, progress)
    grouped: tuple[Grouping, ...] = ()
    if counts is not None and thresholds is not None:
        grouped = (by_count(counts, thresholds),)
    elif counts is not None:
        grouped = groupings(counts, source.name)
    return name, Breakdown.of(
        predictions, trained.class_names, class_counts=counts, groupings=grouped
    )


def _thresholds(text: str) -> tuple[int, int]:
    """The two numbers of `MANY,FEW`."""
    from vitrellis.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        many, few = map(int, parts)
        if many >= few:
            return many, few
    raise UsageError(
        f"--groups {text!r}: should be two whole numbers, the larger one first, such as 100,20: "
        "head classes have more than 100 training images, tail classes fewer than 20"
    )


def _training_counts(run: RunDirectory, *, is_needed: bool) -> list[int] | None:
    """The training images of each class; None for a model imported without images."""
    from vitrellis.errors import VitrellisError

    class_counts = run.read_data().class_counts
    counts = None if class_counts is None else list(class_counts)
    if counts is None and is_needed:
        raise VitrellisError(
            f"{run.path}: the number of training images of each class is not known, as it was "
            "imported without images; leave out --groups and --plot-counts"
        )
    return counts


def check_images(source: Source, class_names: tuple[str, ...], run: RunDirectory) -> None:
    """Refuses images of other classes, and notes other images or an incomplete run."""
    from vitrellis.cli.console import error_console
    from vitrellis.errors import VitrellisError

    if source.class_names != class_names:
        missing = sorted(set(class_names) - set(source.class_names))
        unknown = sorted(set(source.class_names) - set(class_names))
        parts = [f"the images lack {', '.join(missing[:3])}"] if missing else []
        parts += [f"the model does not know {', '.join(unknown[:3])}"] if unknown else []
        reason = "; ".join(parts) or "they are in another order"
        raise VitrellisError(
            f"{run.path}: has {len(class_names)} classes, {source.name!r} has "
            f"{source.num_classes}: {reason}. Give images of the same classes with --root"
        )
    data = run.read_data()
    notes = []
    if data.fingerprint not in (None, source.fingerprint()):
        notes.append(
            "these are not the same images as in training, so val and test may hold training images"
        )
    if not (run.results_file.exists() or run.imported_file.exists()):
        notes.append("training is not complete; these are the figures so far")
    for note in notes:
        error_console.print(f"note: {run.path}: {note}", markup=False, soft_wrap=True)


def choose_split(source: Source, split: str | None, run: RunDirectory) -> tuple[str, Split]:
    """The split that the user named; by default test, or else val."""
    from vitrellis.errors import UsageError

    names = [split] if split is not None else ["test", "val"]
    for name in names:
        if name in source.splits:
            return name, source.splits[name]
    raise UsageError(
        f"{run.path}: its data has no {' or '.join(names)} images, only "
        f"{' and '.join(source.splits)}. Choose with --split"
    )
