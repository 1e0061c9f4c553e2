"""`vitrellis show`: a look inside a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitrellis.cli.console import Quiet, help_of, new_table, print_json, print_line, print_table
from vitrellis.cli.shared_options import (
    DeviceOption,
    JsonOption,
    RootOption,
    WeightsOption,
    output_file,
)
from vitrellis.cli.show_pictures import attention, maps, mistakes, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from vitrellis.analysis.block_figures import BlockFigures
    from vitrellis.runs.directory import RunDirectory

show = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The command and its sub-commands."""


def _about() -> None:
    """Look inside a trained model.

    Examples:
      vitrellis show attention runs/photos
      vitrellis show tokens runs/photos new-photos/
      vitrellis show mistakes runs/photos
      vitrellis show maps runs/photos
      vitrellis show blocks runs/photos
    """


def blocks(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    num_images: Annotated[
        int,
        typer.Option(
            "--images", "--num-images", min=2, help="The number of test images to look at."
        ),
    ] = 512,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw both figures against depth into this PNG file.", callback=output_file
        ),
    ] = None,
    weights: WeightsOption = "best",
    root: RootOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: Quiet = False,  # no progress is shown, but a script may say -q to every command
) -> None:
    """Show how far each block looks, and how many dimensions it uses.

    The attention distance is in pixels: the mean over patches and images, for all heads, for the
    nearest and for the farthest. A student that learned from a CNN looks near in its first blocks.
    The effective rank is that of the feature maps' averages over positions. For a model with two
    heads, the command also prints how often they agree and how often each is right.

    Examples:
      vitrellis show blocks runs/demo/seed0/vit-guided
      vitrellis show blocks runs/photos --images 1000 --plot blocks.png
    """
    from dataclasses import asdict

    from vitrellis.analysis.block_figures import block_figures, head_agreement
    from vitrellis.runs.directory import find_run

    model, images, labels = _model_and_images(find_run(run), weights, num_images, root, device)
    rows = block_figures(model, images)
    heads = head_agreement(model, images, labels)
    if plot is not None:
        from vitrellis.report.pictures import draw_blocks

        draw_blocks(rows, plot, title=str(run))
    if as_json:
        values = {"run": str(run), "images": len(images), "blocks": [asdict(row) for row in rows]}
        print_json(values | ({} if heads is None else asdict(heads)))
        return
    print_line(f"{run}: {len(images):,} images")
    _print_blocks(rows)
    if heads is not None:
        print_line(
            f"The heads agree on {100 * heads.agreement:.1f} % of the images; the class head is "
            f"right on {100 * heads.class_top1:.1f} %, the distillation head on "
            f"{100 * heads.distillation_top1:.1f} %."
        )


def _print_blocks(rows: Sequence[BlockFigures]) -> None:
    has_distance = rows[0].distance is not None
    columns = [">looks, px", ">nearest head", ">farthest head"] if has_distance else []
    table = new_table(">block", *columns, ">width", ">effective rank", ">99 % of variance")
    for row in rows:
        distances = (row.distance, row.nearest, row.farthest)
        cells = [f"{pixels:.1f}" for pixels in distances if pixels is not None]
        table.add_row(
            str(row.block), *cells, str(row.width), f"{row.rank:.1f}", str(row.components)
        )
    print_table(table)


def _model_and_images(
    run: RunDirectory,
    weights: Literal["best", "last"],
    num_images: int,
    root: Path | None,
    device: str,
) -> tuple[nn.Module, Tensor, Tensor]:
    """The model, with test (or else validation) images as it sees them, and their labels."""
    import torch

    from vitrellis.assembly import build
    from vitrellis.assembly.images_of_run import images_of_run
    from vitrellis.errors import VitrellisError
    from vitrellis.runs.exported import load_exported

    place = build.evaluation_place(device)
    trained = load_exported(run.model_folder(weights, without_ema=False))
    recipe, source = images_of_run(run, root)
    split = source.test if source.test is not None else source.val
    if split is None:
        raise VitrellisError(f"{run.path}: its data has neither test nor validation images")
    # spread over the split, whose images may be sorted by class
    indices = torch.linspace(0, len(split) - 1, min(num_images, len(split))).long()
    loader = build.build_eval_loader(recipe, split.subset(indices), trained.preprocessing, place)
    batches = list(loader)
    images = torch.cat([batch.images for batch in batches])
    return trained.model.to(place.device), images, torch.cat([batch.labels for batch in batches])


show.callback(help=help_of(_about))(_about)
for _command in (attention, tokens, maps, mistakes, blocks):
    show.command(help=help_of(_command))(_command)
