"""`vitrellis show`: what goes on inside a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrellis.cli.console import console, help_of, new_table, print_json, print_table

if TYPE_CHECKING:
    from torch import Tensor, nn

show = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The command and its sub-commands."""


def _about() -> None:
    """Show what goes on inside a trained model.

    Examples:
      vitrellis show blocks runs/photos
    """


def blocks(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    num_images: Annotated[
        int, typer.Option("--images", min=2, help="How many test images to look at.")
    ] = 512,
    plot: Annotated[
        Path | None, typer.Option(help="Draw both figures against depth into this PNG file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far each block looks, and how many dimensions it uses.

    Attention distance is in pixels, the mean over patches and images, of all heads and of the
    nearest and the farthest: a student that learned from a CNN looks near in its first blocks. The
    effective rank is that of the maps' averages over positions. Of a model with two heads, it also
    says how often they agree, and how often each is right.

    Examples:
      vitrellis show blocks runs/demo/seed0/dhvt-guided
      vitrellis show blocks runs/photos --images 1000 --plot blocks.png
    """
    from vitrellis.runs.directory import find_run

    model, images, labels = _model_and_images(find_run(run), num_images)
    rows = _rows(model, images)
    agreement = _agreement(model, images, labels)
    if plot is not None:
        from vitrellis.report.blocks import draw_blocks

        draw_blocks(rows, plot, title=str(run))
    if as_json:
        print_json({"run": str(run), "images": len(images), "blocks": rows} | agreement)
        return
    has_distance = rows[0]["distance"] is not None
    columns = [">looks, px", ">nearest head", ">farthest head"] if has_distance else []
    table = new_table(">block", *columns, ">width", ">effective rank", ">99 % of variance")
    for row in rows:
        cells = [str(row["block"])]
        if has_distance:
            cells += [f"{row[key]:.1f}" for key in ("distance", "nearest", "farthest")]
        table.add_row(*cells, str(row["width"]), f"{row['rank']:.1f}", str(row["components"]))
    console.print(f"{run}: {len(images):,} images", highlight=False, soft_wrap=True)
    print_table(table)
    if agreement:
        console.print(
            f"The heads agree on {100 * agreement['agreement']:.1f} % of the images; the class "
            f"head is right on {100 * agreement['class_top1']:.1f} %, the distillation head on "
            f"{100 * agreement['distillation_top1']:.1f} %.",
            highlight=False,
            soft_wrap=True,
        )


def _model_and_images(run: Any, num_images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The best model, and images as it sees them: of the test split, or else the validation one."""
    import torch

    from vitrellis.assembly import build
    from vitrellis.errors import VitrellisError
    from vitrellis.recipe import load_recipe
    from vitrellis.runs.exported import load_exported

    trained = load_exported(run.best_model)
    recipe = load_recipe(run.recipe_file)
    source = build.build_source(recipe)
    split = source.test if source.test is not None else source.val
    if split is None:
        raise VitrellisError(f"{run.path}: its data has neither test nor validation images")
    # spread over the split, whose images may be sorted by class
    chosen = torch.linspace(0, len(split) - 1, min(num_images, len(split))).long()
    place = build.Place(torch.device("cpu"))
    loader = build.build_eval_loader(recipe, split.subset(chosen), trained.preprocessing, place)
    batches = list(loader)
    images = torch.cat([batch.images for batch in batches])
    return trained.model, images, torch.cat([batch.labels for batch in batches])


def _rows(model: nn.Module, images: Tensor) -> list[dict[str, Any]]:
    """Figures of each block; distances are None where no attention can be seen."""
    import torch

    from vitrellis.analysis.attention import attention_distances
    from vitrellis.analysis.rank import components_for, effective_rank
    from vitrellis.errors import UsageError
    from vitrellis.models import forward_with_maps, num_blocks

    every = list(range(num_blocks(model)))
    pooled: list[list[Tensor]] = [[] for _ in every]
    distances: list[list[Tensor]] = [[] for _ in every]
    seen = True
    for part in images.split(64):
        with torch.no_grad():
            _, maps = forward_with_maps(model, part, every)
        for own, taken in zip(pooled, maps, strict=True):
            own.append(taken.mean(dim=(2, 3)))
        try:
            found = attention_distances(model, part) if seen else []
        except UsageError:  # a CNN, or attention of another kind
            seen, found = False, []
        for kept, heads in zip(distances, found, strict=False):
            kept.append(heads * len(part))
    rows = []
    for block in every:
        features = torch.cat(pooled[block])
        far = torch.stack(distances[block]).sum(dim=0) / len(images) if seen else None
        rows.append(
            {
                "block": block,
                "distance": far.mean().item() if far is not None else None,
                "nearest": far.min().item() if far is not None else None,
                "farthest": far.max().item() if far is not None else None,
                "width": features.shape[1],
                "rank": effective_rank(features),
                "components": components_for(features),
            }
        )
    return rows


def _agreement(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Of both heads; nothing for a model with one."""
    import torch

    from vitrellis.models import has_distillation_head, separate_heads

    if not has_distillation_head(model):
        return {}
    with torch.no_grad(), separate_heads(model):
        answers = [
            torch.stack([logits.argmax(dim=1) for logits in model(part)])
            for part in images.split(64)
        ]
    own, distilled = torch.cat(answers, dim=1)
    return {
        "agreement": (own == distilled).double().mean().item(),
        "class_top1": (own == labels).double().mean().item(),
        "distillation_top1": (distilled == labels).double().mean().item(),
    }


show.callback(help=help_of(_about))(_about)
show.command(help=help_of(blocks))(blocks)
