"""`vitrellis eval`: how good a run's model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from vitrellis.analysis.metrics import Evaluation


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
    from vitrellis.cli.console import console, error_console, print_json
    from vitrellis.cli.progress import track_logits
    from vitrellis.errors import UsageError
    from vitrellis.recipe import load_recipe
    from vitrellis.training import build
    from vitrellis.training.exported import load_exported
    from vitrellis.training.run import find_run

    found = find_run(run)
    overrides = [] if root is None else [f"data.root={root}"]
    recipe = load_recipe(found.recipe_file, overrides)
    source = build.build_source(recipe)
    name = split or ("test" if source.test is not None else "val")
    images = {"train": source.train, "val": source.val, "test": source.test}[name]
    if images is None:
        there = [s for s, i in (("train", source.train), ("val", source.val)) if i is not None]
        raise UsageError(f"{run}: its data has no {name} images. There are {' and '.join(there)}")
    if not found.results_file.exists():
        error_console.print(f"{run}: training is not complete; this is what it has so far")
    trained = load_exported(found.best_model if weights == "best" else found.last_model)
    place = build.evaluation_place()
    loader = build.build_eval_loader(recipe, images, trained.preprocessing, place)
    logits, labels = track_logits(trained.model.to(place.device), loader, f"{name} images")
    evaluation = Evaluation.from_logits(logits, labels, trained.class_names)
    if confusion is not None:
        from vitrellis.report.confusion import draw_confusion

        draw_confusion(evaluation, confusion, title=f"{found.path.name}, {name} images")
    if as_json:
        print_json({"run": str(run), "split": name, "weights": weights} | evaluation.to_dict())
        return
    console.print(f"{run}  {weights} checkpoint, {evaluation.num_images:,} {name} images")
    _print(evaluation)


def _print(evaluation: Evaluation) -> None:
    from vitrellis.cli.console import console, new_table, print_table

    figures = {
        "top-1": evaluation.top1,
        "top-5": evaluation.top5,
        "balanced accuracy": evaluation.balanced_accuracy,
        "macro-F1": evaluation.macro_f1,
        "calibration error": evaluation.calibration_error,
    }
    for name, value in figures.items():
        console.print(f"  {name:18}{_percent(value)} %", highlight=False)
    console.print(f"  {'log likelihood':18}{-evaluation.nll:6.3f} nats", highlight=False)
    console.print()
    table = new_table("class", ">images", ">recall %", ">precision %", ">F1 %", "taken most for")
    for k, row in enumerate(evaluation.per_class()):
        wrong = evaluation.confusion[k].clone()
        wrong[k] = 0
        taken = ""
        if wrong.sum() > 0:
            other = int(wrong.argmax())
            taken = f"{evaluation.class_names[other]} ({int(wrong[other])})"
        figures_of = (_percent(row[key]) for key in ("recall", "precision", "f1"))
        table.add_row(str(row["class"]), f"{row['images']:,}", *figures_of, taken)
    print_table(table)
    if len(evaluation.class_names) <= 12:
        console.print()
        header = (f">{name[:8]}" for name in evaluation.class_names)
        matrix = new_table("true class, predicted:", *header)
        for name, counts in zip(evaluation.class_names, evaluation.confusion, strict=True):
            matrix.add_row(name, *(str(int(count)) for count in counts))
        print_table(matrix)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:6.2f}"
