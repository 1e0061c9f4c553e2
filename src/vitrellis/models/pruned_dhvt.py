"""DHVT that leaves tokens behind, although its convolutions need to know where its patches are.

DHVT: Lu et al., NeurIPS 2022, https://arxiv.org/abs/2210.05958. Token selection: EViT, Liang et
al., ICLR 2022, https://arxiv.org/abs/2202.07800. The combination is ours.

A DHVT block needs the grid in one place, the 3x3 depthwise convolution between the two pointwise
ones of its feed-forward. It costs 2 % of the block's multiply-adds, so only there are the hidden
values of the tokens that are left put back in their places, with zeros elsewhere, as beyond the
border of the image; afterwards they are taken out again. Attention, head tokens, norms and the
pointwise convolutions see the tokens that are left and no others. A fused token has no neighbours:
the middle of the kernel alone acts on it. docs/pruning.md compares this with other forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models.dhvt import DAFF, DHVT, DHVTBlock, HeadInteractedAttention
from vitrellis.models.evit import FUSED, keep_attentive, token_at
from vitrellis.models.support.timm_contract import Grid
from vitrellis.models.support.token_reduction import LayerTokens, TokenReduction, num_kept


def attend_and_rank_by_heads(
    attention: HeadInteractedAttention, x: Tensor
) -> tuple[Tensor, Tensor]:
    """The attention of DHVT, and what the class token attends to.

    Args:
        attention: The layer.
        x: `(B, N, D)`, the class token first.

    Returns:
        The layer's output, `(B, N, D)`, and the class token's attention, `(B, N)`: after the
        softmax over all tokens, head tokens included, averaged over heads.
    """
    q, k, v = attention.queries_keys_values(x)
    out = attention.output(x, attention.attend(q, k, v))
    scores = q[:, :, :1] @ k.mT * attention.head_dim**-0.5  # (B, h, 1, N + h)
    return out, scores.softmax(dim=-1).mean(dim=1)[:, 0, : x.shape[1]]


def feed_forward_at(mlp: DAFF, x: Tensor, positions: Tensor, grid: Grid) -> Tensor:
    """DAFF of the tokens that are left.

    Args:
        mlp: The layer.
        x: `(B, 1 + n, D)`, the class token first.
        positions: `(B, n)`, the patch of each of the others, row by row; `FUSED` for one that
            stands for several.
        grid: The number of patches down and across.
    """
    class_token, tokens = x[:, :1], x[:, 1:]
    y = F.gelu(_normalize(mlp.bn1, _pointwise(mlp.conv1, tokens)))  # (B, n, hidden)
    y = y + F.gelu(_normalize(mlp.bn2, convolve_at(mlp.conv2, y, positions, grid)))
    y = _normalize(mlp.bn3, _pointwise(mlp.conv3, y))  # (B, n, D)
    return mlp.with_class_token(class_token, y)


def convolve_at(conv: nn.Conv2d, x: Tensor, positions: Tensor, grid: Grid) -> Tensor:
    """A 3x3 depthwise convolution of values in some places of a grid, in these places.

    Args:
        conv: The convolution, with padding 1.
        x: `(B, n, C)`.
        positions: `(B, n)`, the place of each, row by row; `FUSED` for one without neighbours.
        grid: Rows and columns.
    """
    num_places = grid[0] * grid[1]
    is_fused = (positions == FUSED).unsqueeze(-1)  # (B, n, 1)
    places = torch.where(positions == FUSED, num_places, positions).unsqueeze(-1).expand_as(x)
    image = x.new_zeros(x.shape[0], num_places + 1, x.shape[2]).scatter(1, places, x)
    # a transposed view: channels stay last in memory, where gathering is fast
    convolved = conv(image[:, :num_places].mT.unflatten(-1, grid)).flatten(2).mT
    around = F.pad(convolved, (0, 0, 0, 1)).gather(1, places)
    assert conv.bias is not None
    alone = x * conv.weight[:, 0, 1, 1] + conv.bias
    return torch.where(is_fused, alone, around)


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of `(B, n, C)`, channels last."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """A batch norm of `(B, n, C)`, channels last; its statistics are of these tokens alone."""
    normalized: Tensor = norm(x.mT.unsqueeze(-1))
    return normalized.squeeze(-1).mT


def forward_at(
    block: DHVTBlock, x: Tensor, positions: Tensor, grid: Grid, kept: int | None, fuse: bool
) -> tuple[Tensor, Tensor]:
    """The block of DHVT, of tokens that are left.

    Args:
        block: The block.
        x: `(B, 1 + n, D)`, the class token first.
        positions: `(B, n)`, where the others were in the image.
        grid: The number of patches down and across.
        kept: The number of the n tokens that stay; None if all do.
        fuse: Add one token that is the sum of the others, weighted by attention.

    Returns:
        The tokens that are left, and their positions.
    """
    attended, cls_attention = attend_and_rank_by_heads(block.attn, block.norm1(x))
    x = x + block.drop_path(attended)
    if kept is not None:
        x, positions = keep_attentive(x, cls_attention, positions, kept, fuse)
    return x + block.drop_path(
        feed_forward_at(block.mlp, block.norm2(x), positions, grid)
    ), positions


class PrunedDHVT(TokenReduction, DHVT):
    """A DHVT that leaves tokens behind; `prune_tokens` makes one of any DHVT."""

    def kept_positions(self, x: Tensor) -> list[Tensor]:
        """The patches that are left after each layer, as `EViT.kept_positions` returns them."""
        return [positions for _, positions, _ in self._layers(x, self.keep_rate)]

    def reduce(
        self, x: Tensor, rates: Sequence[float], numbers: set[int]
    ) -> tuple[Tensor, list[LayerTokens], tuple[int, int]]:
        """Runs all layers; the base class says what goes in and comes out."""
        tokens, grid, taken = x, (0, 0), []
        for number, (left, positions, places) in enumerate(self._layers(x, rates)):
            tokens, grid = left, places
            if number in numbers:
                taken.append(LayerTokens(tokens, token_at(positions, grid[0] * grid[1])))
        return self.norm(tokens), taken, grid

    def _layers(self, x: Tensor, rates: Sequence[float]) -> Iterator[tuple[Tensor, Tensor, Grid]]:
        """The tokens after each block, the positions of all but the class token, and the grid."""
        tokens, grid = self.embed(x)
        num_patches = grid[0] * grid[1]
        positions = torch.arange(num_patches, device=x.device).expand(x.shape[0], -1)
        for block, rate in zip(self.blocks, rates, strict=True):
            before = positions.shape[1]
            kept = num_kept(rate, before)
            shrinks = kept + self.fuse_token < before
            if before == num_patches and not shrinks:
                tokens = self.run_block(block, tokens, grid)
            else:
                tokens, positions = self.run_block(
                    forward_at,
                    block,
                    tokens,
                    positions,
                    grid,
                    kept if shrinks else None,
                    self.fuse_token,
                )
            yield tokens, positions, grid
