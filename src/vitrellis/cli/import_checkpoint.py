"""`vitrellis import`: turns a published checkpoint into a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrellis.cli.console import Quiet
from vitrellis.cli.shared_options import JsonOption, output_folder


def import_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A file of the published implementation."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Keys of the run's recipe: data.source=cifar100, input.*, model.*",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="tiny-transformers, mdistiller, dhvt, evit, deit-lt, ldam-drw, paco or "
            "efficientnet-lite.",
            show_default=False,
        ),
    ] = ...,  # type: ignore[assignment]  # typer's sign for "must be given"
    model: Annotated[str, typer.Option(help="The name of the model in `vitrellis models`.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="The new run directory.", callback=output_folder)] = ...,  # type: ignore[assignment]
    classes: Annotated[
        Path | None,
        typer.Option(
            help="A text file with one class name per line, in the order of the model's outputs. "
            "By default the names of the data, or numbers."
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="Import the moving average of the weights in the file.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,  # no progress is shown, but a script may say -q to every command
) -> None:
    """Turn a published checkpoint into a run that eval and predict accept.

    Nothing in the file is executed. Wrappers (module., optimizer states, settings) are removed,
    names are translated, and every tensor must fit. The run can also be a teacher: teacher.run=RUN.

    Examples:
      vitrellis import dhvt_t.pth --source dhvt --model dhvt_tiny_cifar_patch4 --out runs/dhvt
      vitrellis import deit.pyth --source tiny-transformers --model deit_tiny_patch16_224
          --out runs/deit data.source=cifar100 data.root=~/cifar
      vitrellis import paco.pth.tar --source deit-lt --model cifar_resnet32
          --out runs/paco model.args.shortcut=pad
      vitrellis import efficientnet-lite0-57934424.pth --source efficientnet-lite
          --model tf_efficientnet_lite0 --out runs/lite0
    """
    from vitrellis.assembly import imported
    from vitrellis.cli.console import print_json, print_line

    run = imported.import_checkpoint(
        checkpoint,
        source=source,
        model=model,
        out=out,
        overrides=overrides or [],
        class_names=None if classes is None else _lines(classes),
        ema=ema,
    )
    if as_json:
        names = list(run.read_data().class_names)
        print_json({"run": str(run.path), "source": source, "model": model, "classes": names})
        return
    print_line(f"Run: {run.path}\n  vitrellis predict {run.path} IMAGE...")


def _lines(path: Path) -> list[str]:
    from vitrellis.errors import VitrellisError

    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VitrellisError(f"{path}: cannot be read as text ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
