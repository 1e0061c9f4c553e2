"""`vitrellis bench`: the cost of models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from vitrellis.cli.bench_train import bench_train
from vitrellis.cli.console import Quiet, progress_console
from vitrellis.cli.shared_options import DeviceOption, JsonOption, output_file

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from torch import nn

    from vitrellis.analysis.cost import Precision
    from vitrellis.analysis.measurement import Measurement

BACKBONES = (
    "dhvt_tiny_imagenet_patch16",
    "dhvt_small_imagenet_patch16",
    "pit_ti_224",
    "pvt_tiny",
    "pvt_v2_b0",
    "cvt_13",
    "t2t_vit_7",
    "convit_tiny",
    "swin_tiny_patch4_window7_224",
    "resnet18",
    "resnet50",
    "mobilenetv3_large_100",
)
"""The models of `--preset backbones` that are measured with all tokens."""
PRUNED_BACKBONES = ("deit_tiny_patch16_224", "deit_small_patch16_224")
"""The models of `--preset backbones` that are measured at `PRESET_RATES` (or `--keep-rate`), too.

With fewer tokens, DeiT is what is called EViT."""
PRESET_RATES = (0.9, 0.7, 0.5)


@dataclass(frozen=True)
class _Subject:
    """A model to measure, with the shape of its images and the test accuracy of its run."""

    name: str
    model: nn.Module
    channels: int
    img_size: tuple[int, int]
    top1: float | None


_Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="Model names, or run directories."),
]
_Preset = Annotated[
    Literal["backbones"] | None,
    typer.Option(help="Measure many backbones at 224 pixels, EViT at several rates among them."),
]
_KeepRate = Annotated[
    list[float] | None,
    typer.Option(
        help="Also measure each plain ViT or DHVT that is given by name as it is with this "
        "keep rate of token pruning; may be repeated."
    ),
]
_ImgSize = Annotated[
    list[int] | None,
    typer.Option(min=1, help="Pixels; may be repeated. By default the size of each model."),
]
_Precision = Annotated[
    list[str] | None,
    typer.Option(help="float32, bfloat16 or float16; may be repeated. [default: float32]"),
]
_BatchSize = Annotated[int, typer.Option(min=1, help="Images in a batch.")]
_NumClasses = Annotated[int, typer.Option(min=1, help="Number of classes of models given by name.")]
_Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads on a CPU; by default all cores.")
]
_Seconds = Annotated[float, typer.Option(min=0.0, help="Seconds for each kind of measurement.")]
_Compiled = Annotated[bool, typer.Option("--compile", help="Also measure with torch.compile.")]
_Plot = Annotated[
    Path | None,
    typer.Option(
        help="Draw speed against accuracy (or multiply-adds) into this PNG file.",
        callback=output_file,
    ),
]

_Train = Annotated[
    str | None, typer.Option(metavar="RECIPE", help="Time the parts of this recipe's steps.")
]
_Trace = Annotated[
    Path | None,
    typer.Option(
        help="With --train, write the trace of torch.profiler here.", callback=output_file
    ),
]


def bench(
    models: _Models = None,
    preset: _Preset = None,
    keep_rate: _KeepRate = None,
    img_size: _ImgSize = None,
    batch_size: _BatchSize = 32,
    num_classes: _NumClasses = 10,
    precision: _Precision = None,
    compiled: _Compiled = False,
    device: DeviceOption = "auto",
    threads: _Threads = None,
    seconds: _Seconds = 2.0,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    plot: _Plot = None,
    train: _Train = None,
    trace: _Trace = None,
    quiet: Quiet = False,
) -> None:
    """Measure the cost of models: parameters, multiply-adds, memory, time.

    Every time is the median of repeated measurements after a warm-up; --json and --csv also have
    the fastest and the slowest. Multiply-adds are those of convolutions, linear layers and
    attention for one image, half of the count of torch's flop counter. "keeps" is the memory that
    one training step keeps for its backward pass, per image; on a GPU, "peak" is the most memory
    that a step uses. A run is measured as it was trained, and plotted with its test accuracy. What
    prunes tokens is also compared, in turns, with the same model with all tokens.

    With --train, the parts of a recipe's training steps are timed instead; key=value changes it.

    Examples:
      vitrellis bench dhvt_micro_patch4 vit_micro_patch4_28 --img-size 28
      vitrellis bench deit_tiny_patch16_224 evit_deit_tiny_patch16_224 --batch-size 8
      vitrellis bench resnet18 --device cuda --precision float32 --precision bfloat16
      vitrellis bench vit_tiny_patch8_64 --keep-rate 0.7 --keep-rate 0.5
      vitrellis bench --preset backbones --batch-size 8 --plot backbones.png
      vitrellis bench pvt_tiny cvt_13 --img-size 32 --img-size 64 --csv > cost.csv
      vitrellis bench --train demo training.batch_size=64 --trace trace.json
      vitrellis bench runs/demo/seed0/vit-alone runs/demo/seed0/vit-guided --plot speed.png
    """
    from vitrellis.errors import UsageError

    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    if trace is not None and train is None:
        raise UsageError("--trace: belongs to --train RECIPE")
    torch_device = _device(device, threads)
    if train is not None:
        if precision:
            raise UsageError("--precision: with --train, give training.precision=bf16-mixed")
        changes = list(models or [])
        if device != "auto":
            changes.append(f"machine.accelerator={device}")
        bench_train(train, changes, steps=20, trace=trace, as_json=as_json, quiet=quiet)
        return
    if preset is None and not models:
        raise UsageError("give models or runs to measure, or --preset backbones")
    rates = _rates(keep_rate or [])
    progress = progress_console(quiet=quiet)
    rows = []
    subjects = _subjects(models or [], img_size, num_classes, rates)
    if preset is not None:
        preset_rates = rates or list(PRESET_RATES)
        subjects = itertools.chain(
            subjects,
            _subjects(BACKBONES, img_size or [224], num_classes, []),
            _subjects(PRUNED_BACKBONES, img_size or [224], num_classes, preset_rates),
        )
    for subject in subjects:
        for arithmetic, is_compiled in _settings(precision, compiled):
            rows.append(
                _measure(
                    subject, torch_device, batch_size, arithmetic, is_compiled, seconds, progress
                )
            )
    _print(rows, "json" if as_json else "csv" if as_csv else "table")
    if plot is not None:
        from vitrellis.report.speed_picture import draw_speed

        draw_speed(rows, plot)


def _rates(keep_rates: list[float]) -> list[float]:
    from vitrellis.errors import UsageError

    for rate in keep_rates:
        if not 0 < rate < 1:
            raise UsageError(
                f"--keep-rate {rate:g}: should be above 0 and below 1; 1 is always measured"
            )
    return keep_rates


def _device(name: str, threads: int | None) -> torch.device:
    """The device to measure; the threads of the process are set as asked for."""
    import torch

    from vitrellis.assembly.build import device_of

    device = device_of(name)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return device


def _settings(names: list[str] | None, compiled: bool) -> list[tuple[Precision, bool]]:
    """Every precision, without and with torch.compile."""
    precisions = [_precision(name) for name in names or ["float32"]]
    return list(itertools.product(precisions, [False, True] if compiled else [False]))


def _precision(name: str) -> Precision:
    from vitrellis.analysis.cost import Precision
    from vitrellis.errors import unknown_name

    for known in get_args(Precision):
        if name == known:
            return known
    raise unknown_name("precision", name, get_args(Precision))


def _subjects(
    models: Sequence[str], sizes: list[int] | None, num_classes: int, rates: Sequence[float]
) -> Iterator[_Subject]:
    """Each model by name at each size, with all tokens and with each rate; each run at its own."""
    from vitrellis.assembly.pruned import default_layers
    from vitrellis.models import create_model, num_blocks
    from vitrellis.report.speed_picture import KEEP
    from vitrellis.runs.directory import RunDirectory

    for name in models:
        folder = Path(name).expanduser()
        if "/" in name or RunDirectory(folder).exists():
            yield _trained(folder)
            continue
        for size in [(side, side) for side in sizes or []] or [default_size(name)]:
            model = create_model(name, num_classes=num_classes, img_size=size)
            yield _Subject(name, model, 3, size, None)
            for rate in rates:
                layers = default_layers("evit", num_blocks(model))
                pruned = create_model(
                    name,
                    num_classes=num_classes,
                    img_size=size,
                    keep_rate=rate,
                    drop_layers=layers,
                )
                yield _Subject(f"{name}{KEEP}{rate:g}", pruned, 3, size, None)


def default_size(name: str) -> tuple[int, int]:
    """Height and width of the images that a model of timm or ours is made for, in pixels."""
    import timm

    config = timm.get_pretrained_cfg(name.split(".")[0])
    height, width = config.input_size[1:] if config is not None else (224, 224)
    return int(height), int(width)


def _trained(folder: Path) -> _Subject:
    from vitrellis.runs.directory import find_run
    from vitrellis.runs.exported import load_exported

    run = find_run(folder)
    trained = load_exported(run.best_model)
    seen = trained.preprocessing
    top1 = None
    if run.results_file.exists():
        test = run.read_results().best.test
        top1 = None if test is None else test.top1
    return _Subject(str(folder), trained.model, seen.channels, seen.img_size, top1)


def _measure(
    subject: _Subject,
    device: torch.device,
    batch_size: int,
    precision: Precision,
    is_compiled: bool,
    seconds: float,
    progress: Console,
) -> Measurement:
    from vitrellis.analysis.cost import measure
    from vitrellis.analysis.measurement import Measurement
    from vitrellis.analysis.pruning_gain import measure_pruning
    from vitrellis.models.support.token_reduction import TokenReduction

    model = subject.model.to(device)
    shape = (subject.channels, *subject.img_size)
    pruning = None
    with progress.status(f"{subject.name}, {'x'.join(map(str, subject.img_size))} pixels"):
        cost = measure(
            model,
            shape=shape,
            batch_size=batch_size,
            precision=precision,
            compiled=is_compiled,
            seconds=seconds,
        )
        if isinstance(model, TokenReduction) and min(model.keep_rate) < 1:
            pruning = measure_pruning(
                model,
                shape=shape,
                batch_size=batch_size,
                precision=precision,
                seconds=seconds,
                training=True,
            )
    return Measurement(
        subject.name, subject.img_size, precision, is_compiled, subject.top1, cost, pruning
    )


def _print(rows: Sequence[Measurement], form: str) -> None:
    from vitrellis.cli.console import console, print_json
    from vitrellis.report.hardware import describe_hardware

    if form == "json":
        print_json({"hardware": describe_hardware(), "rows": [row.to_json() for row in rows]})
    elif form == "csv":
        _print_csv(rows)
    else:
        console.print(
            f"{describe_hardware()}; batches of {rows[0].cost.batch_size}",
            highlight=False,
            soft_wrap=True,
        )
        _print_table(rows)
        for row in rows:
            if row.pruning is not None:
                console.print(
                    f"{row.model}, {row.pixels} px: {row.pruning.verdict()}.",
                    highlight=False,
                    soft_wrap=True,
                )


def _print_table(rows: Sequence[Measurement]) -> None:
    from vitrellis.cli.console import new_table, print_table

    has_peak = any(row.cost.peak_bytes is not None for row in rows)
    is_varied = len({(row.precision, row.compiled) for row in rows}) > 1
    columns = ["model", ">pixels", *(["arithmetic"] if is_varied else []), ">parameters", ">MACs"]
    columns += [">keeps", *([">peak"] if has_peak else []), ">one image", ">forward", ">training"]
    table = new_table(*columns)
    for row in rows:
        cost = row.cost
        cells = [row.model, row.pixels]
        if is_varied:
            cells.append(row.precision + (", compiled" if row.compiled else ""))
        cells += [f"{cost.parameters / 1e6:.2f} M", f"{cost.macs / 1e6:,.0f} M"]
        cells.append(f"{cost.activation_bytes / 2**20:.1f} MiB")
        if cost.peak_bytes is not None:
            cells.append(f"{cost.peak_bytes / 2**20:,.0f} MiB")
        cells.append(f"{1000 * cost.latency.median:.1f} ms")
        cells += [
            f"{cost.images_per_second(timing):,.0f} img/s ±{timing.spread:.0f} %"
            for timing in (cost.forward, cost.step)
        ]
        table.add_row(*cells)
    print_table(table)


def _print_csv(rows: Sequence[Measurement]) -> None:
    """A line for each measurement; each figure of a timing has a column of its own."""
    import csv
    import sys

    lines = []
    for row in rows:
        line: dict[str, object] = {}
        values = row.to_json() | {"img_size": row.pixels}
        del values["pruning"]
        for name in ("forward", "step"):
            gain = None if row.pruning is None else getattr(row.pruning, name)
            values[f"pruning_{name}_ratio"] = None if gain is None else f"{gain.ratio:.4f}"
        for key, value in values.items():
            if isinstance(value, dict):
                line |= {f"{key}_{part}": f"{number:.4f}" for part, number in value.items()}
            else:
                line[key] = value
        lines.append(line)
    writer = csv.DictWriter(sys.stdout, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
