"""`vitrellis export`: a run's model for other programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.shared_options import (
    JsonOption,
    RootOption,
    WeightsOption,
    WithoutEmaOption,
    output_place,
)

if TYPE_CHECKING:
    from rich.console import Console

    from vitrellis.data.source import Split
    from vitrellis.export.agreement import Agreement
    from vitrellis.export.exporting import Format, RealImages, Target
    from vitrellis.runs.directory import RunDirectory

_CALIBRATION_IMAGES = 128


_FreeSize = Annotated[
    bool | None,
    typer.Option(
        "--free-size/--fixed-size",
        help="Whether images of any size are taken. By default if the model allows it.",
    ),
]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    format: Annotated[
        Literal["onnx", "torch-export", "timm"], typer.Option(help="The kind of file.")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write, or timm's folder. By default model.onnx, model.pt2 or "
            "timm-model in the run directory.",
            callback=output_place,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="ONNX: compute in float16; half the size.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX: compute in 8-bit integers, less exactly.")
    ] = False,
    free_size: _FreeSize = None,
    weights: WeightsOption = "best",
    without_ema: WithoutEmaOption = False,
    root: RootOption = None,
    num_images: Annotated[
        int,
        typer.Option(
            "--num-images",
            "--images",
            min=1,
            help="The number of images to compare with `predict`.",
        ),
    ] = 256,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Export a run's model as ONNX, as a torch.export program, or for timm.

    The file takes any number of images, holds their normalization, and names the classes; a JSON
    file beside it says how images are resized. It is read back and compared with `vitrellis
    predict` on the run's test or validation images, both on the CPU, on which the file is made. If
    it differs, nothing is written.

    Examples:
      vitrellis export runs/photos
      vitrellis export runs/photos --half --out photos-half.onnx
      vitrellis export runs/photos --format torch-export
      vitrellis export runs/photos --format timm --out photos-timm
    """
    from vitrellis.cli.console import print_json, progress_console
    from vitrellis.errors import UsageError
    from vitrellis.export.exporting import Target
    from vitrellis.runs.directory import find_run

    if half and int8:
        raise UsageError("--half and --int8: choose one")
    directory = find_run(run)
    target = Target(
        path=(_default_path(directory, format) if out is None else out),
        format=format,
        precision="float16" if half else "int8" if int8 else "float32",
        free_size=free_size,
        force=force,
    )
    folder = directory.model_folder(weights, without_ema=without_ema)
    progress = progress_console(quiet=quiet)
    split, agreement = _exported(directory, folder, target, root, num_images, progress)
    if as_json:
        values = {"run": str(run), "weights": weights, "out": str(target.path), "split": split}
        values |= {"format": format, "precision": target.precision}
        print_json(values | asdict(agreement))
    else:
        _print_agreement(target, agreement, split)


def _exported(
    run: RunDirectory,
    folder: Path,
    target: Target,
    root: Path | None,
    num_images: int,
    console: Console,
) -> tuple[str, Agreement]:
    """Writes the file; the name of the split that it was compared on, and the comparison."""
    from vitrellis.cli.console import error_console
    from vitrellis.export.exporting import export_model
    from vitrellis.runs.exported import load_exported
    from vitrellis.training.display import reading

    target.check()
    trained = load_exported(folder)
    for note in trained.notes:
        error_console.print(f"note: {note}", markup=False, soft_wrap=True)
    name, images = _images(run, root, num_images)
    with reading(console, "comparing images") as progress:
        return name, export_model(trained, target, images, progress)


def _default_path(run: RunDirectory, format: Format) -> Path:
    names = {"onnx": "model.onnx", "torch-export": "model.pt2", "timm": "timm-model"}
    return run.path / names[format]


def _images(run: RunDirectory, root: Path | None, count: int) -> tuple[str, RealImages]:
    """The name of the split that is compared on, and images of it and of the training split."""
    from vitrellis.assembly.images_of_run import images_of_run
    from vitrellis.export.exporting import RealImages

    _, source = images_of_run(run, root)
    name = next(name for name in ("test", "val", "train") if name in source.splits)
    return name, RealImages(
        checked=_spread(source.splits[name], count),
        calibration=_spread(source.train, _CALIBRATION_IMAGES),
    )


def _spread(split: Split, count: int) -> Split:
    """At most so many images, evenly spread over the split."""
    import torch

    count = min(count, len(split))
    return split.subset(torch.arange(count) * len(split) // count)


def _print_agreement(target: Target, agreement: Agreement, split: str) -> None:
    from vitrellis.cli.console import new_table, print_table
    from vitrellis.export.exporting import ENDINGS

    size = sum(p.stat().st_size for p in _files(target.path)) / 1e6
    typer.echo(f"{target.path}: {target.format}, {target.precision}, {size:.1f} MB")
    if ENDINGS[target.format]:
        typer.echo(f"{target.sidecar}: classes and preprocessing")
    typer.echo("")
    table = new_table(f"{agreement.num_images} {split} images", ">predict", ">exported")
    table.add_row(
        "top-1 accuracy %",
        f"{100 * agreement.predict_top1:.1f}",
        f"{100 * agreement.exported_top1:.1f}",
    )
    table.add_row("same label %", "", f"{100 * agreement.label_agreement:.1f}")
    table.add_row("largest difference of a probability", "", f"{agreement.largest_difference:.1e}")
    table.add_row("mean difference", "", f"{agreement.mean_difference:.1e}")
    table.add_row(
        "images/s on this CPU",
        f"{agreement.predict_images_per_second:,.0f}",
        f"{agreement.exported_images_per_second:,.0f}",
    )
    print_table(table)


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]
