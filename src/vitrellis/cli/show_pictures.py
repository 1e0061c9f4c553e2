"""`vitrellis show tokens`, `attention`, `maps` and `mistakes`: pictures of single images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from vitrellis.cli.console import (
    Quiet,
    new_table,
    print_json,
    print_line,
    print_table,
    progress_console,
)
from vitrellis.cli.shared_options import (
    DeviceOption,
    JsonOption,
    PrecisionOption,
    RootOption,
    WeightsOption,
    output_file,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from torch import Tensor

    from vitrellis.analysis.cost import Precision
    from vitrellis.analysis.mistakes import Mistake
    from vitrellis.cli.shown_images import LabelledImages
    from vitrellis.runs.exported import Trained

Number = TypeVar("Number", int, float)
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE",
        help="Files, folders, or - for a list on stdin. By default images of the run's data.",
    ),
]
SplitOption = Annotated[
    Literal["test", "val", "train"] | None,
    typer.Option(help="The run's images. By default test, or val if there are no test images."),
]
CountOption = Annotated[
    int,
    typer.Option(
        "--images", "--num-images", min=1, help="The largest number of images that are drawn."
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "--plot", help="The PNG file.", callback=output_file)
]


def tokens(
    run: RunArgument,
    images: ImagesArgument = None,
    rates: Annotated[
        str,
        typer.Option(
            metavar="RATE,...",
            help="Keep rates. By default 0.9,0.7,0.5, or the run's own if it prunes.",
        ),
    ] = "",
    layers: Annotated[
        str,
        typer.Option(
            metavar="BLOCK,...",
            help="The blocks that leave tokens behind, counted from 0. By default the run's own, "
            "or those at a quarter, half and three quarters of the depth.",
        ),
    ] = "",
    split: SplitOption = None,
    count: CountOption = 6,
    weights: WeightsOption = "best",
    root: RootOption = None,
    out: OutOption = Path("tokens.png"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: Quiet = False,  # no progress is shown, but a script may say -q to every command
) -> None:
    """Draw the patches that token pruning keeps, layer by layer; the others are dimmed.

    A run that was trained with pruning is shown as it is, others as if they were pruned now: for
    each keep rate, what is left after each block that leaves tokens behind.

    Examples:
      vitrellis show tokens runs/photos
      vitrellis show tokens runs/photos new-photos/ --rates 0.7,0.5,0.3 --out kept.png
      vitrellis show tokens runs/photos a.jpg b.jpg --layers 1,2
    """
    from vitrellis.cli.shown_images import images_to_show
    from vitrellis.report.look_inside import draw_tokens

    shown = images_to_show(run, images, split, count, weights, root, device)
    figure = draw_tokens(
        shown.trained,
        shown.images,
        keep_rates=_numbers(rates, "--rates", float),
        layers=_numbers(layers, "--layers", int),
        names=shown.names,
        label=str(run),
    )
    _save([(out, figure)], run, shown.names, as_json=as_json)


def attention(
    run: RunArgument,
    images: ImagesArgument = None,
    heads: Annotated[
        bool,
        typer.Option(
            "--heads", help="Every block and head, in a file for each image: FILE-1.png, ..."
        ),
    ] = False,
    of: Annotated[
        Literal["class", "head"],
        typer.Option(help="The class token, or the head tokens that DHVT makes in every block."),
    ] = "class",
    split: SplitOption = None,
    count: CountOption = 6,
    weights: WeightsOption = "best",
    root: RootOption = None,
    out: OutOption = Path("attention.png"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: Quiet = False,  # no progress is shown, but a script may say -q to every command
) -> None:
    """Draw what the class token attends to in each block, and attention rollout.

    Rollout (Abnar and Zuidema, 2020) follows attention through all blocks: the share that each
    patch has in the last class token.

    Examples:
      vitrellis show attention runs/photos
      vitrellis show attention runs/photos a.jpg --heads
      vitrellis show attention runs/photos new-photos/ --of head
    """
    from vitrellis.cli.shown_images import images_to_show
    from vitrellis.report.look_inside import draw_attention, draw_attention_heads

    shown = images_to_show(run, images, split, count, weights, root, device)
    if not heads:
        figure = draw_attention(
            shown.trained, shown.images, of=of, names=shown.names, label=str(run)
        )
        _save([(out, figure)], run, shown.names, as_json=as_json)
        return
    is_one = len(shown.images) == 1
    paths = [
        out if is_one else out.with_name(f"{out.stem}-{number}{out.suffix}")
        for number in range(1, len(shown.images) + 1)
    ]
    figures = (
        draw_attention_heads(shown.trained, image, of=of, name=name, label=str(run))
        for image, name in zip(shown.images, shown.names, strict=True)
    )
    _save(zip(paths, figures, strict=True), run, shown.names, as_json=as_json)


def maps(
    run: RunArgument,
    images: ImagesArgument = None,
    split: SplitOption = None,
    count: CountOption = 6,
    weights: WeightsOption = "best",
    root: RootOption = None,
    out: OutOption = Path("maps.png"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: Quiet = False,  # no progress is shown, but a script may say -q to every command
) -> None:
    """Draw the student's maps beside its teacher's at the depths of locality guidance.

    Three principal components of the channels are red, green and blue. The student's map is shown
    as it is, and after the projection to the teacher's channels: there, equal colours are equal
    features. R squared is the share of the variance of the teacher's maps of these images that the
    student's explain.

    Examples:
      vitrellis show maps runs/photos
      vitrellis show maps runs/photos a.jpg b.jpg --out maps.png
    """
    from vitrellis.assembly.compared_maps import guided_maps
    from vitrellis.cli.shown_images import images_to_show
    from vitrellis.report.look_inside import draw_maps
    from vitrellis.runs.directory import find_run

    shown = images_to_show(run, images, split, count, weights, root, device)
    pairs = guided_maps(find_run(run), shown.trained, shown.images, best=weights == "best")
    figure = draw_maps(shown.trained, shown.images, pairs, names=shown.names, label=str(run))
    _save([(out, figure)], run, shown.names, as_json=as_json)


def mistakes(
    run: RunArgument,
    images: ImagesArgument = None,
    split: SplitOption = None,
    count: CountOption = 18,
    weights: WeightsOption = "best",
    root: RootOption = None,
    out: OutOption = Path("mistakes.png"),
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Draw and list what the model gets wrong most confidently.

    Each image has the class that the model takes it for, and its own class, both with their
    probabilities. Among such images are often wrong labels. Files and folders have to be in folders
    that are named as the classes are.

    Examples:
      vitrellis show mistakes runs/photos
      vitrellis show mistakes runs/photos --split val --images 30
      vitrellis show mistakes runs/photos new-photos/ --json --device cpu
    """
    from vitrellis.analysis.mistakes import most_confident_mistakes
    from vitrellis.cli.shown_images import labelled_images
    from vitrellis.report.look_inside import draw_mistakes

    trained, judged = labelled_images(run, images, split, weights, root, device)
    probabilities = _probabilities(trained, judged, precision, progress_console(quiet=quiet))
    found = most_confident_mistakes(probabilities, judged.labels, count)
    wrong = int((probabilities.argmax(dim=1) != judged.labels).sum())
    summary = f"{run}: {wrong:,} of {len(judged.names):,} {judged.what} are wrong"
    if found:
        picked = [mistake.index for mistake in found]
        figure = draw_mistakes(
            trained,
            [judged.read(index) for index in picked],
            probabilities[picked],
            judged.labels[picked],
            names=[Path(judged.names[index]).name for index in picked],
            label=summary,
        )
        _write(figure, out, is_told=not as_json)
    rows = [_row(mistake, trained, judged) for mistake in found]
    if as_json:
        files = [str(out)] if found else []
        values = {"run": str(run), "images": len(judged.names), "wrong": wrong, "files": files}
        print_json(values | {"mistakes": rows})
        return
    print_line(summary)
    table = new_table("image", "class", ">%", "taken for", ">%")
    for mistake, row in zip(found, rows, strict=True):
        chances = (f"{100 * p:.1f}" for p in (mistake.label_probability, mistake.probability))
        own, other = chances
        table.add_row(str(row["image"]), str(row["class"]), own, str(row["predicted"]), other)
    if rows:
        print_table(table)


def _row(mistake: Mistake, trained: Trained, judged: LabelledImages) -> dict[str, object]:
    return {
        "image": judged.names[mistake.index],
        "class": trained.class_names[mistake.label],
        "class_probability": mistake.label_probability,
        "predicted": trained.class_names[mistake.predicted],
        "probability": mistake.probability,
    }


def _probabilities(
    trained: Trained, judged: LabelledImages, precision: Precision, console: Console
) -> Tensor:
    """`(N, K)`, on the CPU."""
    import torch

    from vitrellis.analysis.cost import arithmetic
    from vitrellis.training.display import reading

    device = next(trained.model.parameters()).device
    resize = trained.preprocessing.transform().resize_and_crop
    total, parts = len(judged.names), []
    with arithmetic(device, precision), reading(console, judged.what) as progress:
        for start in range(0, total, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, total))
            images = torch.stack([resize(judged.read(number)) for number in numbers])
            names = [judged.names[number] for number in numbers]
            parts.append(trained.predict_resized(images, names).cpu())
            progress(numbers.stop, total)
    return torch.cat(parts)


_AT_ONCE = 64


def _numbers(text: str, option: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """The numbers of `0.9,0.7`."""
    from vitrellis.errors import UsageError

    try:
        return tuple(kind(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        example = "0.7,0.5" if kind is float else "1,2"
        raise UsageError(
            f"{option} {text!r}: should be numbers with commas between them, such as {example}"
        ) from error


def _save(
    figures: Iterable[tuple[Path, Figure]], run: Path, images: Sequence[str], *, as_json: bool
) -> None:
    """Writes each figure into its file, and prints the files."""
    files = []
    for path, figure in figures:
        _write(figure, path, is_told=not as_json)
        files.append(str(path))
    if as_json:
        print_json({"run": str(run), "images": list(images), "files": files})


def _write(figure: Figure, path: Path, *, is_told: bool) -> None:
    from vitrellis.report.pictures import save_figure

    save_figure(figure, path)
    if is_told:
        print_line(f"Picture: {path}")
