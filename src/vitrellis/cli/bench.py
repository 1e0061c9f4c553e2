"""`vitrellis bench`: what models cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

if TYPE_CHECKING:
    from torch import nn

    from vitrellis.analysis.cost import Cost, Timing

Precision = Literal["float32", "bfloat16", "float16"]


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model names, or run directories.")
    ],
    img_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Pixels; may be given several times. By default each its own."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 32,
    num_classes: Annotated[int, typer.Option(min=1, help="Classes of models by name.")] = 10,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="float32, bfloat16 or float16; may be given several times. [default: float32]"
        ),
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile, and compare.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="What is measured.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on a CPU; all cores if not given.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Of each kind of measurement.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw speed against accuracy, or else MACs, as PNG.")
    ] = None,
) -> None:
    """Measure what models cost: parameters, multiply-adds, memory, time.

    Every time is the median of repeated, warmed-up measurements, with the fastest and the slowest
    in --json and --csv. Multiply-adds are those of convolutions, linear layers and attention for
    one image, half of what torch's flop counter counts. "keeps" is what one training step keeps
    for its backward pass, per image; on a GPU, "peak" is the most memory that a step uses. A run is
    measured as it was trained, and plotted with its test accuracy.

    Examples:
      vitrellis bench dhvt_micro_patch4 vit_micro_patch4_28 --img-size 28
      vitrellis bench deit_tiny_patch16_224 evit_deit_tiny_patch16_224 --batch-size 8
      vitrellis bench pvt_tiny cvt_13 --img-size 32 --img-size 64 --csv > cost.csv
      vitrellis bench runs/demo/seed0/dhvt-alone runs/demo/seed0/dhvt-guided --plot speed.png
    """
    from vitrellis.errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    on = _device(device, threads)
    rows = []
    for subject in _subjects(models, img_size, num_classes):
        for arithmetic, is_compiled in _settings(precision, compiled):
            rows.append(_row(subject, on, batch_size, arithmetic, is_compiled, seconds))
    _print(rows, "json" if as_json else "csv" if as_csv else "table")
    if plot is not None:
        from vitrellis.report.speed import draw_speed

        draw_speed(rows, plot)


def _device(name: str, threads: int | None) -> Any:
    """The device that is measured, with the threads that were asked for."""
    import torch

    from vitrellis.errors import UsageError

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: there is no GPU that torch can use here")
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _settings(names: list[str] | None, compiled: bool) -> list[tuple[Precision, bool]]:
    precisions = [_precision(name) for name in names or ["float32"]]
    return list(itertools.product(precisions, [False, True] if compiled else [False]))


def _precision(name: str) -> Precision:
    from vitrellis.errors import unknown_name

    for known in get_args(Precision):
        if name == known:
            return known
    raise unknown_name("precision", name, get_args(Precision))


def _subjects(
    models: list[str], sizes: list[int] | None, num_classes: int
) -> Iterator[dict[str, Any]]:
    """Each model at each size: its name, a way to build it, and what its images are like."""
    import timm

    from vitrellis.models import create_model
    from vitrellis.runs.directory import RunDirectory

    for name in models:
        folder = Path(name).expanduser()
        if "/" in name or RunDirectory(folder).exists():
            yield _trained(folder)
            continue
        cfg = timm.get_pretrained_cfg(name.split(".")[0])
        height, width = cfg.input_size[1:] if cfg is not None else (224, 224)
        for size in [(side, side) for side in sizes or []] or [(height, width)]:
            model = create_model(name, num_classes=num_classes, img_size=size)
            yield {"model": name, "built": model, "channels": 3, "img_size": size, "top1": None}


def _trained(folder: Path) -> dict[str, Any]:
    from vitrellis.runs.directory import find_run
    from vitrellis.runs.exported import load_exported

    run = find_run(folder)
    trained = load_exported(run.best_model)
    top1 = None
    if run.results_file.exists():
        test = run.read_results().best.test
        top1 = None if test is None else test.top1
    return {
        "model": str(folder),
        "built": trained.model,
        "channels": trained.preprocessing.channels,
        "img_size": trained.preprocessing.img_size,
        "top1": top1,
    }


def _row(
    subject: dict[str, Any],
    device: Any,
    batch_size: int,
    precision: Precision,
    is_compiled: bool,
    seconds: float,
) -> dict[str, Any]:
    """Plain values of one measurement."""
    from vitrellis.analysis.cost import measure
    from vitrellis.cli.console import error_console

    model: nn.Module = subject["built"]
    with error_console.status(f"{subject['model']}, {_size(subject['img_size'])} pixels"):
        cost = measure(
            model.to(device),
            shape=(subject["channels"], *subject["img_size"]),
            batch_size=batch_size,
            precision=precision,
            compiled=is_compiled,
            seconds=seconds,
        )
    return {
        "model": subject["model"],
        "img_size": list(subject["img_size"]),
        "precision": precision,
        "compiled": is_compiled,
        "top1": subject["top1"],
    } | _plain(cost)


def _plain(cost: Cost) -> dict[str, Any]:
    def milliseconds(timing: Timing) -> dict[str, float]:
        return {
            "median": 1000 * timing.median,
            "fastest": 1000 * timing.fastest,
            "slowest": 1000 * timing.slowest,
        }

    return {
        "parameters": cost.parameters,
        "trainable_parameters": cost.trainable_parameters,
        "macs": cost.macs,
        "activation_bytes_per_image": cost.activation_bytes,
        "peak_bytes": cost.peak_bytes,
        "batch_size": cost.batch_size,
        "latency_ms": milliseconds(cost.latency),
        "forward_ms": milliseconds(cost.forward),
        "step_ms": milliseconds(cost.step),
        "forward_images_per_second": cost.batch_size / cost.forward.median,
        "step_images_per_second": cost.batch_size / cost.step.median,
    }


def _print(rows: list[dict[str, Any]], form: str) -> None:
    from vitrellis.cli.console import console, print_json
    from vitrellis.report.hardware import describe_hardware

    if form == "json":
        print_json({"hardware": describe_hardware(), "rows": rows})
    elif form == "csv":
        _print_csv(rows)
    else:
        console.print(
            f"{describe_hardware()}; batches of {rows[0]['batch_size']}",
            highlight=False,
            soft_wrap=True,
        )
        _print_table(rows)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from vitrellis.cli.console import new_table, print_table

    has_peak = any(row["peak_bytes"] is not None for row in rows)
    varied = len({(row["precision"], row["compiled"]) for row in rows}) > 1
    columns = ["model", ">pixels", *(["arithmetic"] if varied else []), ">parameters", ">MACs"]
    columns += [">keeps", *([">peak"] if has_peak else []), ">one image", ">forward", ">training"]
    table = new_table(*columns)
    for row in rows:
        cells = [row["model"], _size(row["img_size"])]
        if varied:
            cells.append(row["precision"] + (", compiled" if row["compiled"] else ""))
        cells += [f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e6:,.0f} M"]
        cells.append(f"{row['activation_bytes_per_image'] / 2**20:.1f} MiB")
        if has_peak:
            cells.append(f"{row['peak_bytes'] / 2**20:,.0f} MiB")
        cells.append(f"{row['latency_ms']['median']:.1f} ms")
        cells += [
            f"{row[f'{kind}_images_per_second']:,.0f} img/s ±{_spread(row[f'{kind}_ms']):.0f} %"
            for kind in ("forward", "step")
        ]
        table.add_row(*cells)
    print_table(table)


def _spread(timing: dict[str, float]) -> float:
    """Half of the range, in per cent of the median."""
    return 50 * (timing["slowest"] - timing["fastest"]) / timing["median"]


def _print_csv(rows: list[dict[str, Any]]) -> None:
    import csv
    import sys

    flat = [_flattened(row) for row in rows]
    writer = csv.DictWriter(sys.stdout, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flattened(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{part}": f"{number:.4f}" for part, number in value.items()}
        else:
            flat[key] = _size(value) if key == "img_size" else value
    return flat


def _size(img_size: Any) -> str:
    height, width = img_size
    return str(height) if height == width else f"{height}x{width}"
