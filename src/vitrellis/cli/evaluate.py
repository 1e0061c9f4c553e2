"""`vitrellis eval`: how good a run's model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from vitrellis.analysis.metrics import Evaluation
    from vitrellis.data.sources import Source, Split
    from vitrellis.recipe import Recipe
    from vitrellis.training.run import RunDirectory

LARGEST_MATRIX = 20
"""Classes up to which the confusion matrix is printed."""


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    split: Annotated[
        Literal["test", "val", "train"] | None,
        typer.Option(help="Which images. By default test, or val if there are no test images."),
    ] = None,
    weights: Annotated[
        Literal["best", "last"], typer.Option(help="The best checkpoint, or the last.")
    ] = "best",
    root: Annotated[
        Path | None, typer.Option(help="Where the images are now, if they were moved.")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(help="Draw the confusion matrix into this PNG file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all figures.")] = False,
) -> None:
    """Evaluate a run: accuracy, per class, confusion, calibration.

    The images are those of the run's recipe, with the same splits. Test images have chosen
    nothing; figures on validation images are what the best checkpoint was chosen by.

    Examples:
      vitrellis eval runs/photos
      vitrellis eval runs/photos --split val --weights last
      vitrellis eval runs/photos --json > figures.json
      vitrellis eval runs/photos --confusion confusion.png
    """
    from vitrellis.analysis.metrics import Evaluation
    from vitrellis.cli.console import print_json
    from vitrellis.cli.progress import track_logits
    from vitrellis.recipe import load_recipe
    from vitrellis.training import build
    from vitrellis.training.exported import load_exported
    from vitrellis.training.run import find_run

    found = find_run(run)
    trained = load_exported(found.best_model if weights == "best" else found.last_model)
    recipe = load_recipe(found.recipe_file, [] if root is None else [f"data.root={root}"])
    source = _source(recipe, found)
    _check_images(source, trained.class_names, found)
    name, images = _choose(source, split, found)
    place = build.evaluation_place()
    loader = build.build_eval_loader(recipe, images, trained.preprocessing, place)
    logits, labels = track_logits(trained.model.to(place.device), loader, f"{name} images")
    evaluation = Evaluation.from_logits(logits, labels, trained.class_names)
    title = f"{run}: {weights} checkpoint, {evaluation.num_images:,} {name} images"
    if confusion is not None:
        from vitrellis.report.confusion import draw_confusion

        draw_confusion(evaluation, confusion, title=title)
    if as_json:
        print_json({"run": str(run), "split": name, "weights": weights} | evaluation.to_dict())
    else:
        _print(evaluation, title)


def _source(recipe: Recipe, run: RunDirectory) -> Source:
    """The recipe's images; if their folder is gone, `--root` is the way out."""
    from vitrellis.errors import VitrellisError
    from vitrellis.training.build import build_source

    root = recipe.data.root
    if root is not None and not root.expanduser().exists():
        raise VitrellisError(
            f"{run.path}: its images are not in {root} (data.root). If they were moved, say where "
            "they are with --root"
        )
    return build_source(recipe)


def _check_images(source: Source, class_names: tuple[str, ...], run: RunDirectory) -> None:
    """Refuses other classes, and says so if the images or the run are not what they seem."""
    import json

    from vitrellis.cli.console import error_console
    from vitrellis.errors import VitrellisError

    if source.class_names != class_names:
        lacking = sorted(set(class_names) - set(source.class_names))
        unknown = sorted(set(source.class_names) - set(class_names))
        parts = [f"the images lack {', '.join(lacking[:3])}"] if lacking else []
        parts += [f"the model does not know {', '.join(unknown[:3])}"] if unknown else []
        reason = "; ".join(parts) or "they are in another order"
        raise VitrellisError(
            f"{run.path}: has {len(class_names)} classes, {source.name!r} has "
            f"{source.num_classes}: {reason}. Give images of the same classes with --root"
        )
    data = json.loads(run.data_file.read_text())
    notes = []
    if data["fingerprint"] not in (None, source.fingerprint()):
        notes.append(
            "these are not the same images as in training, so val and test may hold some of those "
            "that were learned from"
        )
    if not (run.results_file.exists() or run.imported_file.exists()):
        notes.append("training is not complete, this is what it has so far")
    for note in notes:
        error_console.print(f"note: {run.path}: {note}", markup=False, soft_wrap=True)


def _choose(source: Source, split: str | None, run: RunDirectory) -> tuple[str, Split]:
    """The images that were asked for; by default test, or else val."""
    from vitrellis.errors import UsageError

    wanted = [split] if split is not None else ["test", "val"]
    for name in wanted:
        if name in source.splits:
            return name, source.splits[name]
    there = " and ".join(source.splits)
    raise UsageError(
        f"{run.path}: its data has no {' or '.join(wanted)} images, only {there}. "
        f"Choose with --split"
    )


def _print(evaluation: Evaluation, title: str) -> None:
    from vitrellis.cli.console import console, new_table, print_table

    names = evaluation.class_names
    figures = {
        "top-1": _percent(evaluation.top1),
        "top-5": _percent(evaluation.top5),
        "balanced accuracy": _percent(evaluation.balanced_accuracy),
        "macro-F1": _percent(evaluation.macro_f1),
        "calibration error": _percent(evaluation.calibration_error),
    }
    if len(names) <= 5:
        del figures["top-5"]  # always 100
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    for name, value in figures.items():
        console.print(f"  {name:17} {value:>6} %", highlight=False)
    console.print(f"  {'log loss':17} {evaluation.nll:6.3f}", highlight=False)
    console.print()
    table = new_table("class", ">images", ">recall %", ">precision %", ">F1 %", "most taken for")
    for k, row in enumerate(evaluation.per_class()):
        figures_of = (_percent(row[key]) for key in ("recall", "precision", "f1"))
        table.add_row(names[k], f"{row['images']:,}", *figures_of, _most_taken_for(evaluation, k))
    print_table(table)
    if len(names) <= LARGEST_MATRIX:
        console.print()
        matrix = new_table("true, predicted as:", *(f">{k}" for k in range(len(names))))
        for k, counts in enumerate(evaluation.confusion.tolist()):
            matrix.add_row(f"{k:2} {names[k]}", *(str(count) for count in counts))
        print_table(matrix)


def _most_taken_for(evaluation: Evaluation, k: int) -> str:
    """The class that images of class `k` are most often confused with, and how often."""
    wrong = evaluation.confusion[k].clone()
    wrong[k] = 0
    if wrong.sum() == 0:
        return ""
    other = int(wrong.argmax())
    return f"{evaluation.class_names[other]} ({int(wrong[other]):,})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
