"""The attention distance: how far the patches are that each block of a transformer attends to.

Source: Dosovitskiy et al., ICLR 2021 (https://arxiv.org/abs/2010.11929); for students on long
tails, Rangwani et al., DeiT-LT, CVPR 2024 (https://arxiv.org/abs/2404.02900). For each patch, it is
the mean of the distances to all patches, weighted by its attention to them; then the mean over
patches and images. A convolution of 3x3 patches looks about one patch far.

How we differ: class, distillation and head tokens take no part, on either side, and the attention
among patches is scaled to a sum of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vitrellis.errors import UsageError
from vitrellis.models import forward_with_maps, num_blocks


@torch.no_grad()
def attention_distances(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The mean attention distance of each head of each block, in pixels.

    Args:
        model: A transformer whose blocks use `scaled_dot_product_attention`; in eval mode.
        images: `(B, C, H, W)`, normalised.

    Returns:
        `(heads,)` for each block, in order.

    Raises:
        UsageError: If the blocks do not have one attention each that can be seen.
    """
    sides = (images.shape[-2], images.shape[-1])
    prefix: int | None = getattr(model, "num_prefix_tokens", None)
    distances = []
    for weights, grid in attention_weights(model, images):
        if weights.shape[-2] < grid[0] * grid[1]:
            raise UsageError(
                f"{type(model).__name__}: drops tokens, so that distances are of other patches in "
                "every image; set its keep rate to 1 first"
            )
        distances.append(_mean_distance(weights, grid, sides, prefix))
    return distances


@torch.no_grad()
def attention_weights(model: nn.Module, images: Tensor) -> list[tuple[Tensor, tuple[int, int]]]:
    """The attention of each block after the softmax, and the grid of its patches.

    Args:
        model: A transformer whose blocks use `scaled_dot_product_attention`; in eval mode.
        images: `(B, C, H, W)`, normalised.

    Returns:
        `(B, heads, N, M)` float32 and the rows and columns of the patches, for each block in order.

    Raises:
        UsageError: If the blocks do not have one attention each that can be seen.
    """
    with _Attention() as seen:
        _, maps = forward_with_maps(model, images, list(range(num_blocks(model))))
    if len(seen.weights) != len(maps):
        raise UsageError(
            f"{type(model).__name__}: {len(seen.weights)} attentions were seen in {len(maps)} "
            "blocks; they are known where each has one scaled_dot_product_attention"
        )
    grids = [(taken.shape[-2], taken.shape[-1]) for taken in maps]
    return list(zip(seen.weights, grids, strict=True))


class _Attention(TorchFunctionMode):
    """Computes the weights of every scaled dot-product attention in the block once more."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            queries, keys = args[0], args[1]
            scale = kwargs.get("scale") or 1 / math.sqrt(queries.shape[-1])
            scores = queries.float() @ keys.float().mT * scale
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            if mask is not None:  # a bias, by which merged tokens count as often as they are
                scores = scores + mask.float()
            self.weights.append(scores.softmax(dim=-1))
        return func(*args, **kwargs)


def _mean_distance(
    weights: Tensor, grid: tuple[int, int], sides: tuple[int, int], prefix: int | None
) -> Tensor:
    """The mean attention distance of each head of one block.

    Args:
        weights: `(B, heads, N, M)`, the attention of tokens to tokens.
        grid: The rows and columns of the patches that attend.
        sides: `(H, W)` of the images in pixels.
        prefix: The most tokens in front of the patches; None if all other tokens are there.

    Returns:
        `(heads,)` in pixels.
    """
    num_queries, num_keys = weights.shape[-2:]
    shrunk = _shrinkage(grid, num_keys)
    key_grid = (-(-grid[0] // shrunk), -(-grid[1] // shrunk))
    patches, key_patches = grid[0] * grid[1], key_grid[0] * key_grid[1]
    first, first_key = num_queries - patches, num_keys - key_patches
    if prefix is not None:  # what DHVT adds stands behind the patches
        first, first_key = min(first, prefix), min(first_key, prefix)
    among = weights[:, :, first : first + patches, first_key : first_key + key_patches]
    among = among / among.sum(dim=-1, keepdim=True)
    distances = torch.cdist(_centres(grid, sides), _centres(key_grid, sides)).to(weights)
    return (among * distances).sum(dim=-1).mean(dim=(0, 2))


def _shrinkage(grid: tuple[int, int], num_keys: int) -> int:
    """The factor by which the grid of keys is coarser than that of queries."""
    for factor in range(1, max(grid) + 1):
        if -(-grid[0] // factor) * -(-grid[1] // factor) <= num_keys:
            return factor
    return max(grid)


def _centres(grid: tuple[int, int], sides: tuple[int, int]) -> Tensor:
    """The centres of the patches in pixels: `(rows * columns, 2)`."""
    rows = (torch.arange(grid[0]) + 0.5) * (sides[0] / grid[0])
    columns = (torch.arange(grid[1]) + 0.5) * (sides[1] / grid[1])
    return torch.cartesian_prod(rows, columns)
