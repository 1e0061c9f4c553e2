"""Forms of token pruning for DHVT, whose convolutions need the grid, tried on a finished run.

Nothing is trained. Each form leaves out the same tokens at the same layers. Accuracy is that of the
run's validation images; speed is processor time of one thread against the model with all tokens,
for the run's model and, with random weights, for DHVT-T at 224 pixels.

    python benchmarks/dhvt_forms.py RUN [--keep-rates 0.8 0.5] [--layers 1 2]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.analysis.pruning_gain import take_turns
from vitrellis.assembly import build
from vitrellis.assembly.source_of_recipe import build_source
from vitrellis.models import create_model
from vitrellis.models.dhvt import DHVT
from vitrellis.models.evit import keep_attentive
from vitrellis.models.pruned_dhvt import PrunedDHVT, attend_and_rank_by_heads, forward_at
from vitrellis.models.support.token_reduction import num_kept
from vitrellis.recipe import load_recipe
from vitrellis.runs.directory import find_run
from vitrellis.runs.exported import load_exported

Form = Callable[[Any, Tensor, Sequence[float]], Tensor]


@torch.no_grad()
def zeros(model: Any, images: Tensor, rates: Sequence[float]) -> Tensor:
    """Ours: empty places are zeros for the depthwise convolution; nothing else sees them."""
    tokens, grid = model.embed(images)
    positions = torch.arange(grid[0] * grid[1]).expand(len(images), -1)
    for block, rate in zip(model.blocks, rates, strict=True):
        kept = num_kept(rate, positions.shape[1])
        some = kept if kept < positions.shape[1] else None
        tokens, positions = forward_at(block, tokens, positions, grid, some, False)
    logits: Tensor = model.forward_head(model.norm(tokens))
    return logits


@torch.no_grad()
def neighbours(model: Any, images: Tensor, rates: Sequence[float]) -> Tensor:
    """The first pointwise convolution of every place, so that the depthwise one has neighbours.

    A token that was left out keeps the value that it had; attention and the last convolution are
    saved.
    """
    tokens, grid = model.embed(images)
    positions = torch.arange(grid[0] * grid[1]).expand(len(images), -1)
    for block, rate in zip(model.blocks, rates, strict=True):
        left = _take(tokens, positions)
        attended, ranking = attend_and_rank_by_heads(block.attn, block.norm1(left))
        left = left + attended
        tokens = _put(tokens, positions, left)
        kept = num_kept(rate, positions.shape[1])
        left, positions = keep_attentive(left, ranking, positions, kept, False)
        mlp = block.mlp
        y = block.norm2(tokens)[:, 1:].mT.unflatten(-1, grid)
        y = F.gelu(mlp.bn1(mlp.conv1(y)))
        y = (y + F.gelu(mlp.bn2(mlp.conv2(y)))).flatten(2)
        y = y.gather(2, positions.unsqueeze(1).expand(-1, y.shape[1], -1)).unsqueeze(-1)
        y = mlp.bn3(mlp.conv3(y)).squeeze(-1).mT
        left = left + mlp.with_class_token(block.norm2(left[:, :1]), y)
        tokens = _put(tokens, positions, left)
    logits: Tensor = model.forward_head(model.norm(tokens))
    return logits


@torch.no_grad()
def attention_alone(model: Any, images: Tensor, rates: Sequence[float]) -> Tensor:
    """Tokens are left out of attention alone; every feed-forward is that of the whole grid."""
    tokens, grid = model.embed(images)
    positions = torch.arange(grid[0] * grid[1]).expand(len(images), -1)
    for block, rate in zip(model.blocks, rates, strict=True):
        left = _take(tokens, positions)
        attended, ranking = attend_and_rank_by_heads(block.attn, block.norm1(left))
        tokens = _put(tokens, positions, left + attended)
        kept = num_kept(rate, positions.shape[1])
        positions = positions.gather(1, ranking[:, 1:].topk(kept, dim=1).indices)
        tokens = tokens + block.mlp(block.norm2(tokens), grid)
    logits: Tensor = model.forward_head(model.norm(tokens))
    return logits


FORMS: dict[str, Form] = {
    "zeros in empty places (ours)": zeros,
    "old values in empty places": neighbours,
    "attention alone": attention_alone,
}


def _take(tokens: Tensor, positions: Tensor) -> Tensor:
    """The class token and the patches at `positions`."""
    wide = positions.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, wide)], dim=1)


def _put(tokens: Tensor, positions: Tensor, left: Tensor) -> Tensor:
    """The tokens with those of `_take` in their places."""
    wide = positions.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return torch.cat([left[:, :1], tokens[:, 1:].scatter(1, wide, left[:, 1:])], dim=1)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description="Forms of token pruning for DHVT.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--keep-rates", type=float, nargs="+", default=[0.8, 0.5])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, images, labels = trained(arguments.run)
    large = create_model("dhvt_tiny_imagenet_patch16", num_classes=10).eval()
    assert isinstance(model, DHVT)
    assert not isinstance(model, PrunedDHVT)
    accuracy = (model(images).argmax(dim=1) == labels).float().mean().item()
    write("| form | keep rate | accuracy | speed-up | speed-up of DHVT-T, 224 px |")
    write("|---|--:|--:|--:|--:|")
    write(f"| all tokens | 1 | {100 * accuracy:.1f} % | 1 | 1 |")
    for rate in arguments.keep_rates:
        rates = [rate if layer in arguments.layers else 1.0 for layer in range(len(model.blocks))]
        published = [rate if layer in (3, 6, 9) else 1.0 for layer in range(12)]
        for name, form in FORMS.items():
            right = (form(model, images, rates).argmax(dim=1) == labels).float().mean().item()
            gain = speedup(form, model, images[:32], rates)
            of_large = speedup(form, large, torch.randn(8, 3, 224, 224), published)
            write(f"| {name} | {rate:g} | {100 * right:.1f} % | {gain:.2f} | {of_large:.2f} |")


def trained(folder: Path) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """The best model of a run, and its validation images and labels."""
    run = find_run(folder)
    loaded = load_exported(run.best_model)
    recipe = load_recipe(run.recipe_file)
    source = build_source(recipe)
    assert source.val is not None
    place = build.Place(torch.device("cpu"))
    batches = list(build.build_eval_loader(recipe, source.val, loaded.preprocessing, place))
    images = torch.cat([batch.images for batch in batches])
    return loaded.model, images, torch.cat([batch.labels for batch in batches])


def speedup(form: Form, model: torch.nn.Module, images: Tensor, rates: Sequence[float]) -> float:
    """How many times as fast as the model with all tokens."""

    def plain() -> None:
        with torch.no_grad():
            model(images)

    def pruned() -> None:
        form(model, images, rates)

    gain = take_turns(
        plain,
        pruned,
        num_images=len(images),
        device=torch.device("cpu"),
        seconds=1,
    )
    return gain.ratio


def write(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
