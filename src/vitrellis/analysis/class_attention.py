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
weighted as in the model. What goes to a merged token is divided among its patches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.analysis.attention import attention_weights
from vitrellis.errors import UsageError
from vitrellis.models import num_blocks
from vitrellis.models.dhvt import HeadInteractedAttention
from vitrellis.models.support.token_reduction import GONE, TokenReduction
from vitrellis.models.tome import ToMe

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
    places = _token_of_patch(model, images)
    maps = []
    for block, (weights, grid) in enumerate(attention_weights(model, images)):
        layout = _layout(model, weights, grid, block)
        rows = weights[:, :, 0] if layout.prefix else weights.mean(dim=2)  # (B, heads, M)
        tokens = rows[..., layout.prefix : layout.prefix + layout.num_tokens]
        maps.append(_on_grid(tokens, grid, places[block]))
    return maps


@torch.no_grad()
def attention_rollout(model: nn.Module, images: Tensor) -> Tensor:
    """The share of each patch of the image in the last class token, by attention rollout.

    Args:
        model: As for `class_attention`; all blocks must have the patches of one grid, but for those
            that a model leaves behind or merges.
        images: `(B, C, H, W)`, normalised.

    Returns:
        `(B, rows, columns)`; with the class token's own share, they add up to 1.

    Raises:
        UsageError: If the attention cannot be seen, or the grid of the patches changes.
    """
    found = attention_weights(model, images)
    if len({grid for _, grid in found}) > 1:
        raise UsageError(
            f"{type(model).__name__}: its patches are of another size in every stage, and rollout "
            "is known for one grid. Its class-token attention can be shown block by block"
        )
    places = _token_of_patch(model, images)
    prefix = 0
    rollout: Tensor | None = None
    for block, (weights, grid) in enumerate(found):
        prefix = _layout(model, weights, grid, block).prefix
        mean = _without_head_tokens(weights.mean(dim=1), _num_head_tokens(model))  # (B, N, N)
        mixed = (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        rollout = mixed if rollout is None else mixed @ rollout
        class_row = weights.mean(dim=1)[:, 0, : mean.shape[-1]]
        before, after = places[block], places[block + 1]
        if isinstance(model, TokenReduction) and before is not None and after is not None:
            following = found[block + 1][0] if block + 1 < len(found) else weights
            count = _layout(model, following, grid, block).num_tokens
            rollout = _go_on(model, rollout, class_row, before, after, count)
    assert rollout is not None
    share = rollout[:, 0] if prefix else rollout.mean(dim=1)
    return share[:, prefix:].unflatten(-1, found[0][1])


@torch.no_grad()
def head_token_attention(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The attention of DHVT's head tokens to each patch, averaged over the heads of attention.

    Args:
        model: A DHVT, in eval mode.
        images: `(B, C, H, W)`, normalised.

    Returns:
        `(B, head tokens, rows, columns)` for each block in order; there are as many head tokens as
        heads. NaN where no token is left.

    Raises:
        UsageError: If the model has no head tokens.
    """
    if _num_head_tokens(model) == 0:
        raise UsageError(
            f"{type(model).__name__}: has no head tokens, which DHVT alone has. Show the attention "
            "of its class token"
        )
    places = _token_of_patch(model, images)
    maps = []
    for block, (weights, grid) in enumerate(attention_weights(model, images)):
        layout = _layout(model, weights, grid, block)
        end = layout.prefix + layout.num_tokens
        rows = weights[:, :, end:, layout.prefix : end].mean(dim=1)  # (B, head tokens, n)
        maps.append(_on_grid(rows, grid, places[block]))
    return maps


def _token_of_patch(model: nn.Module, images: Tensor) -> list[Tensor | None]:
    """The token of each patch before each block and after the last; None where all are there.

    Each is `(B, patches)` as `TokenReduction.token_of_patch` returns it.
    """
    if not isinstance(model, TokenReduction):
        return [None] * (num_blocks(model) + 1)
    after = model.token_of_patch(images)
    every = torch.arange(after[0].shape[1], device=images.device).expand(len(images), -1)
    return [every, *after]


class _Layout(NamedTuple):
    """The order of the tokens that attend to each other in a block."""

    prefix: int
    """The number of tokens in front of the patches, the class token first."""
    num_tokens: int
    """The number of tokens that stand for patches, which come next; head tokens are the last."""


def _layout(model: nn.Module, weights: Tensor, grid: Grid, block: int) -> _Layout:
    """The order of the tokens of a block.

    Raises:
        UsageError: If the tokens that attend are not those that are attended to.
    """
    num_queries, num_keys = weights.shape[-2:]
    others = num_queries - _num_head_tokens(model)
    prefix = others - math.prod(grid)
    if isinstance(model, TokenReduction):
        prefix = model.num_prefix_tokens
    if num_queries != num_keys or prefix < 0:
        raise UsageError(
            f"{type(model).__name__}: in block {block}, {num_queries} tokens attend to {num_keys} "
            f"in a grid of {grid[0]}x{grid[1]}; its attention can be shown where all tokens attend "
            "to all, as in ViT, DeiT, PiT, T2T-ViT and DHVT"
        )
    return _Layout(prefix, others - prefix)


def _on_grid(rows: Tensor, grid: Grid, token_of_patch: Tensor | None) -> Tensor:
    """`(B, heads, n)` attention to tokens as `(B, heads, rows, columns)` to patches."""
    if token_of_patch is None:
        return rows.unflatten(-1, grid)
    shares = rows / _sizes(token_of_patch, rows.shape[-1]).clamp_min(1).unsqueeze(1)
    # the last place is for patches without a token
    padded = F.pad(shares, (0, 1), value=torch.nan)
    numbers = torch.where(token_of_patch == GONE, rows.shape[-1], token_of_patch)
    numbers = numbers.unsqueeze(1).expand(-1, rows.shape[1], -1)
    return padded.gather(2, numbers).unflatten(-1, grid)


def _sizes(token_of_patch: Tensor, count: int) -> Tensor:
    """The number of patches that each of `count` tokens stands for, `(B, count)`."""
    numbers = torch.where(token_of_patch == GONE, count, token_of_patch)
    return F.one_hot(numbers, count + 1).sum(dim=1)[:, :count]


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
    model: TokenReduction,
    rollout: Tensor,
    class_row: Tensor,
    before: Tensor,
    after: Tensor,
    count: int,
) -> Tensor:
    """The rows of the tokens that a block lets go on.

    Args:
        model: The model.
        rollout: `(B, prefix + n, M)`.
        class_row: `(B, prefix + n)`, the class token's attention, by which tokens are ranked.
        before: `(B, patches)`, the token of each patch before the block.
        after: `(B, patches)`, its token after the block.
        count: The number of tokens after the block that are no prefix.
    """
    prefix = model.num_prefix_tokens
    if rollout.shape[1] == prefix + count:
        return rollout
    tokens = rollout[:, prefix:]
    if isinstance(model, ToMe):  # each is the mean of the tokens that were merged, by their sizes
        old, new = int(before.max()) + 1, int(after.max()) + 1
        shared = F.one_hot(after, new).mT.float() @ F.one_hot(before, old).float()  # (B, new, old)
        return torch.cat(
            [rollout[:, :prefix], shared / shared.sum(-1, keepdim=True) @ tokens], dim=1
        )
    scores, order = class_row[:, prefix:].sort(dim=1, descending=True)
    tokens = tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, rollout.shape[-1]))
    kept = count - model.fuse_token
    parts = [rollout[:, :prefix], tokens[:, :kept]]
    if model.fuse_token:
        shares = scores[:, kept:] / scores[:, kept:].sum(dim=1, keepdim=True)
        parts.append(shares.unsqueeze(1) @ tokens[:, kept:])
    return torch.cat(parts, dim=1)
