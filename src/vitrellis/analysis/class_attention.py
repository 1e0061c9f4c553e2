"""What the class token looks at, as maps over the patches of an image.

In each block, the row of the class token in the attention after the softmax says how much it takes
from each patch. Attention rollout follows this through all blocks: it multiplies the attention,
averaged over heads and mixed in equal parts with the identity for the residual connection.

Source of the rollout: Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020,
https://arxiv.org/abs/2005.00928.

How we differ: a model without a class token is read by the mean over all its tokens, which is what
an average over patches passes on. DHVT makes its head tokens in every block from the average of all
tokens and adds their mean to the class token, and the rollout follows that. Where a model leaves
tokens behind, their places are NaN from then on; a fused token is the mean of what it stands for,
weighted as in the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vitrellis.analysis.attention import attention_weights
from vitrellis.errors import UsageError
from vitrellis.models import num_blocks
from vitrellis.models.dhvt import DHVT, HeadInteractedAttention
from vitrellis.models.evit import EViT, scatter

Grid = tuple[int, int]


@torch.no_grad()
def class_attention(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The attention of the class token to each patch, for each block in order.

    Args:
        model: A transformer whose blocks use `scaled_dot_product_attention`; in eval mode.
        images: `(B, C, H, W)`, normalised.

    Returns:
        `(B, heads, rows, columns)` for each block: shares that add up to at most 1, because some
        goes to the class token itself and to others that are no patches. NaN where no token is
        left.

    Raises:
        UsageError: If the attention cannot be seen, or is not among all patches.
    """
    maps = []
    places = _places(model, images)
    for block, (weights, grid) in enumerate(attention_weights(model, images)):
        prefix = _num_prefix(model, weights, grid, block, places[block])
        rows = weights[:, :, 0] if prefix else weights.mean(dim=2)  # (B, heads, M)
        maps.append(_on_grid(rows, prefix, grid, places[block]))
    return maps


@torch.no_grad()
def attention_rollout(model: nn.Module, images: Tensor) -> Tensor:
    """The share of each patch of the image in the last class token, by attention rollout.

    Args:
        model: As for `class_attention`; all blocks must have the same patches, but for those that
            an EViT leaves behind.
        images: `(B, C, H, W)`, normalised.

    Returns:
        `(B, rows, columns)`; with the class token's own share, they add up to 1.

    Raises:
        UsageError: If the attention cannot be seen, or the grid of the patches changes.
    """
    found = attention_weights(model, images)
    places = _places(model, images)
    grids = {grid for _, grid in found}
    if len(grids) > 1:
        raise UsageError(
            f"{type(model).__name__}: its patches are of another size in every stage, and rollout "
            "is known for one grid. Its class-token attention can be shown block by block"
        )
    prefix = 0
    rollout: Tensor | None = None
    for block, (weights, grid) in enumerate(found):
        prefix = _num_prefix(model, weights, grid, block, places[block])
        mean = weights.mean(dim=1)  # (B, N, M)
        mean = _without_head_tokens(mean, _num_head_tokens(model))
        mixed = (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        rollout = mixed if rollout is None else mixed @ rollout
        rollout = _go_on(model, rollout, mean[:, 0], prefix, places[block : block + 2])
    assert rollout is not None
    share = rollout[:, 0] if prefix else rollout.mean(dim=1)
    return share[:, prefix:].unflatten(-1, found[0][1])


@torch.no_grad()
def head_token_attention(model: DHVT, images: Tensor) -> list[Tensor]:
    """The attention of DHVT's head tokens to each patch, averaged over the heads of attention.

    Args:
        model: In eval mode.
        images: `(B, C, H, W)`, normalised.

    Returns:
        `(B, head tokens, rows, columns)` for each block in order; there are as many head tokens as
        heads.
    """
    maps = []
    for weights, grid in attention_weights(model, images):
        count = math.prod(grid)
        rows = weights[:, :, 1 + count :].mean(dim=1)  # (B, head tokens, M)
        maps.append(rows[..., 1 : 1 + count].unflatten(-1, grid))
    return maps


def _places(model: nn.Module, images: Tensor) -> list[Tensor | None]:
    """The places of the tokens before each block, and after the last; None where all are there.

    Each is `(B, n)` as `EViT.kept_positions` returns it.
    """
    if not isinstance(model, EViT):
        return [None] * (num_blocks(model) + 1)
    num_patches = math.prod(model.patch_embed.dynamic_feat_size(images.shape[-2:]))
    every = torch.arange(num_patches, device=images.device).expand(len(images), -1)
    return [every, *model.kept_positions(images)]


def _num_prefix(
    model: nn.Module, weights: Tensor, grid: Grid, block: int, places: Tensor | None
) -> int:
    """The number of tokens in front of the patches, the class token first.

    Raises:
        UsageError: If the tokens that attend are not those that are attended to.
    """
    num_queries, num_keys = weights.shape[-2:]
    patches = math.prod(grid) if places is None else places.shape[1]
    heads = _num_head_tokens(model)
    prefix = num_queries - patches - heads
    if num_queries != num_keys or prefix < 0:
        raise UsageError(
            f"{type(model).__name__}: in block {block}, {num_queries} tokens attend to {num_keys} "
            f"in a grid of {grid[0]}x{grid[1]}; its attention can be shown where all tokens attend "
            "to all, as in ViT, DeiT, PiT, T2T-ViT and DHVT"
        )
    return prefix


def _on_grid(rows: Tensor, prefix: int, grid: Grid, places: Tensor | None) -> Tensor:
    """`(B, heads, M)` attention to tokens as `(B, heads, rows, columns)`."""
    count = math.prod(grid)
    if places is None:
        return rows[..., prefix : prefix + count].unflatten(-1, grid)
    taken = rows[..., prefix:].mT  # (B, n, heads)
    there = scatter(torch.ones_like(taken), places, count)
    maps = scatter(taken, places, count).masked_fill(there == 0, torch.nan)
    return maps.mT.unflatten(-1, grid)


def _num_head_tokens(model: nn.Module) -> int:
    """The number of head tokens behind the others, 0 but for DHVT."""
    layers = (m for m in model.modules() if isinstance(m, HeadInteractedAttention))
    return next((layer.num_heads for layer in layers), 0)


def _without_head_tokens(mean: Tensor, num_heads: int) -> Tensor:
    """`(B, N + h, N + h)` as the flow among the N tokens that go on, `(B, N, N)`."""
    if num_heads == 0:
        return mean
    num_tokens = mean.shape[-1] - num_heads
    made_of = mean.new_full((num_heads, num_tokens), 1 / num_tokens)  # each is an average of all
    flow = mean[..., :num_tokens] + mean[..., num_tokens:] @ made_of  # (B, N + h, N)
    class_row = (flow[:, 0] + flow[:, num_tokens:].mean(dim=1)) / 2
    return torch.cat([class_row.unsqueeze(1), flow[:, 1:num_tokens]], dim=1)


def _go_on(
    model: nn.Module, rollout: Tensor, class_row: Tensor, prefix: int, places: list[Tensor | None]
) -> Tensor:
    """The rows of the tokens that a block lets go on: those that stay, and the fused one.

    Args:
        model: The model; without pruning, all tokens go on.
        rollout: `(B, prefix + n, M)`.
        class_row: `(B, prefix + n)`, the class token's attention, by which tokens are ranked.
        prefix: The number of prefix tokens.
        places: The places of the tokens before and after the block.
    """
    before, after = places
    if not isinstance(model, EViT) or before is None or after is None:
        return rollout
    if after.shape == before.shape:
        return rollout
    kept = after.shape[1] - model.fuse_token
    scores, order = class_row[:, prefix:].sort(dim=1, descending=True)
    tokens = rollout[:, prefix:].gather(1, order.unsqueeze(-1).expand(-1, -1, rollout.shape[-1]))
    parts = [rollout[:, :prefix], tokens[:, :kept]]
    if model.fuse_token:
        shares = scores[:, kept:] / scores[:, kept:].sum(dim=1, keepdim=True)
        parts.append(shares.unsqueeze(1) @ tokens[:, kept:])
    return torch.cat(parts, dim=1)
