"""ToMe: a Vision Transformer that merges similar tokens in its layers, with or without training.

Paper: Bolya et al., "Token merging: your ViT but faster", ICLR 2023,
https://arxiv.org/abs/2210.09461. Original code: github.com/facebookresearch/ToMe.

In a layer that merges, tokens are divided by turns into two sets. Each token of the first set draws
an edge to the token of the second set whose key is most similar; the tokens with the most similar
edges are averaged with their partners, weighted by the number of patches that each stands for, its
size. Attention is proportional to sizes: the logarithm of a key's size is added to its scores.

How we differ from the original: the number of merged tokens follows from a keep rate, as in EViT,
so that it fits images of any size (`merging_rates` gives the rates of the paper's r tokens per
layer); no prefix token is ever merged, register tokens included; tokens of equal similarity are
merged in no particular order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vitrellis.models.support.plain_attention import (
    attention_output,
    dropout_of,
    queries_keys_values,
)
from vitrellis.models.support.token_reduction import LayerTokens, TokenReduction, num_kept


class Matching(NamedTuple):
    """The tokens that are merged, as numbers among all that are no prefix."""

    kept: Tensor
    """`(B, a - r)`: tokens of the first set that stay as they are, in rising order."""
    merged: Tensor
    """`(B, r)`: tokens of the first set that are merged."""
    partner: Tensor
    """`(B, r)`: the place in the second set of the token that each is merged with."""
    second: Tensor
    """`(b,)`: all tokens of the second set."""


def match(keys: Tensor, num_prefix: int, num_merged: int) -> Matching:
    """Bipartite soft matching (the paper, section 3).

    Args:
        keys: `(B, P + n, d)`, whose cosines say how similar tokens are.
        num_prefix: P, the number of tokens in front that are never merged. They are counted when
            tokens are divided by turns, as in the original.
        num_merged: r, at most half of n.
    """
    numbers = torch.arange(keys.shape[1] - num_prefix, device=keys.device)
    first, second = numbers[num_prefix % 2 :: 2], numbers[1 - num_prefix % 2 :: 2]
    directions = F.normalize(keys[:, num_prefix:], dim=-1)
    similarity = directions[:, first] @ directions[:, second].mT  # (B, a, b)
    best, partner = similarity.max(dim=-1)  # (B, a) each
    order = best.topk(best.shape[1], dim=1).indices
    merged, kept = order[:, :num_merged], order[:, num_merged:].sort(dim=1).values
    return Matching(first[kept], first[merged], partner.gather(1, merged), second)


def merge(tokens: Tensor, sizes: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """Averages matched tokens, weighted by size.

    Args:
        tokens: `(B, n, D)`, without prefix tokens.
        sizes: `(B, n, 1)`, the number of patches that each stands for.
        matching: The tokens to merge.

    Returns:
        `(B, n - r, D)`: first those of `matching.kept`, then those of the second set; and their
        sizes, `(B, n - r, 1)`.
    """
    kept, merged, partner, second = matching
    weighted = tokens * sizes
    averaged = weighted[:, second].scatter_add(1, _wide(partner, tokens), _rows(weighted, merged))
    sums = sizes[:, second].scatter_add(1, _wide(partner, sizes), _rows(sizes, merged))
    left = torch.cat([_rows(tokens, kept), averaged / sums], dim=1)
    return left, torch.cat([_rows(sizes, kept), sums], dim=1)


def places_after(matching: Matching) -> Tensor:
    """The number that each of the n tokens has after it was merged: `(B, n)`."""
    kept, merged, partner, second = matching
    batch, num_kept_ones = kept.shape
    num_second = len(second)
    places = kept.new_empty(batch, num_kept_ones + merged.shape[1] + num_second)
    places.scatter_(1, kept, torch.arange(num_kept_ones, device=kept.device).expand(batch, -1))
    places.scatter_(1, merged, num_kept_ones + partner)
    places[:, second] = num_kept_ones + torch.arange(num_second, device=kept.device)
    return places


def attend_in_proportion(
    attention: Attention, x: Tensor, sizes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The attention of timm, to each token as if it were there as often as its size says.

    Args:
        attention: The layer.
        x: `(B, N, D)`.
        sizes: `(B, N, 1)`, those of prefix tokens are 1; None if all are 1.

    Returns:
        The layer's output, `(B, N, D)`, and the keys, averaged over heads, `(B, N, d)`.
    """
    q, k, v = queries_keys_values(attention, x)
    bias = None if sizes is None else sizes.log().to(q.dtype).mT.unsqueeze(1)  # (B, 1, 1, N)
    attended = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, dropout_p=dropout_of(attention)
    )
    return attention_output(attention, x, attended), k.mean(dim=1)


def forward_merging(
    block: Block, x: Tensor, sizes: Tensor | None, num_prefix: int, num_merged: int
) -> tuple[Tensor, Tensor | None, Matching | None]:
    """The block of timm, which merges tokens between attention and feed-forward.

    Args:
        block: The block.
        x: `(B, P + n, D)`.
        sizes: `(B, P + n, 1)`, the number of patches that each token stands for; None if it is 1.
        num_prefix: P.
        num_merged: The number of the n tokens that are merged into others, 0 for none.

    Returns:
        `(B, P + n - num_merged, D)`, the sizes, and the matching if there is one.
    """
    attention: Any = block.attn
    attended, keys = attend_in_proportion(attention, block.norm1(x), sizes)
    x = x + block.drop_path1(block.ls1(attended))
    matching = None
    if num_merged:
        matching = match(keys, num_prefix, num_merged)
        if sizes is None:
            sizes = torch.ones_like(x[..., :1])
        tokens, others = merge(x[:, num_prefix:], sizes[:, num_prefix:], matching)
        x = torch.cat([x[:, :num_prefix], tokens], dim=1)
        sizes = torch.cat([sizes[:, :num_prefix], others], dim=1)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), sizes, matching


class ToMe(TokenReduction, VisionTransformer):  # type: ignore[misc]  # timm's takes masks
    """A Vision Transformer that merges tokens; `prune_tokens` makes one of any plain ViT."""

    smallest_rate: ClassVar[float] = 0.5

    def pruning_arguments(self) -> dict[str, Any]:
        """The arguments of `create_model` for a model that merges as this one does now."""
        arguments = super().pruning_arguments()
        del arguments["fuse_token"]  # nothing is left behind
        return arguments | {"merge_tokens": True}

    def reduce(
        self, x: Tensor, rates: Sequence[float], numbers: set[int]
    ) -> tuple[Tensor, list[LayerTokens], tuple[int, int]]:
        """Runs all layers; the base class says what goes in and comes out."""
        tokens = self.norm_pre(self._pos_embed(self.patch_embed(x)))
        num_prefix = self.num_prefix_tokens
        num_patches = tokens.shape[1] - num_prefix
        token_of_patch = torch.arange(num_patches, device=x.device).expand(x.shape[0], -1)
        sizes, taken = None, []
        for number, (block, rate) in enumerate(zip(self.blocks, rates, strict=True)):
            left = tokens.shape[1] - num_prefix
            num_merged = min(left - num_kept(rate, left), left // 2)
            arguments = (block, tokens, sizes, num_prefix, num_merged)
            if self.grad_checkpointing and self.training:
                tokens, sizes, matching = checkpoint(
                    forward_merging, *arguments, use_reentrant=False
                )
            else:
                tokens, sizes, matching = forward_merging(*arguments)
            if numbers and matching is not None:
                token_of_patch = places_after(matching).gather(1, token_of_patch)
            if number in numbers:
                taken.append(LayerTokens(tokens, token_of_patch))
        return self.norm(tokens), taken, self.patch_embed.dynamic_feat_size(x.shape[-2:])


class ToMeDistilled(ToMe, VisionTransformerDistilled):  # type: ignore[misc]  # the same
    """The same with a distillation token, which is never merged, and a head for it."""


def merging_rates(
    num_patches: int, num_merged: int, layers: Sequence[int], depth: int
) -> list[float]:
    """The keep rates by which so many tokens are merged in each of some layers.

    Args:
        num_patches: The patches of an image.
        num_merged: The paper's r; where fewer than 2 r tokens are left, half of them are merged.
        layers: The layers that merge.
        depth: The number of all layers.
    """
    rates, left = [], num_patches
    for layer in range(depth):
        after = max(left - num_merged, left - left // 2) if layer in layers else left
        rates.append(after / left)
        left = after
    return rates


def _rows(tokens: Tensor, numbers: Tensor) -> Tensor:
    """`(B, k, D)`, the tokens of `(B, n, D)` with these numbers `(B, k)`."""
    return tokens.gather(1, _wide(numbers, tokens))


def _wide(numbers: Tensor, tokens: Tensor) -> Tensor:
    """Numbers `(B, k)`, repeated for each of D channels."""
    return numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
