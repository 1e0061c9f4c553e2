"""Every block of PiT and PVT v2, whose classes in timm give out whole stages only.

timm's `forward_intermediates` of these two returns stages after their norm. Locality guidance
(github.com/lkhl/tiny-transformers) takes blocks, counted over all stages, before it.

How we differ from timm: nothing but what is given out; the modules and their order are timm's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from timm.models.pit import PoolingVisionTransformer
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Staged = PoolingVisionTransformer | PyramidVisionTransformerV2


def num_staged_blocks(model: Staged) -> int:
    """Blocks of all stages together."""
    stages: Any = (
        model.transformers if isinstance(model, PoolingVisionTransformer) else model.stages
    )
    return sum(len(stage.blocks) for stage in stages)


def staged_forward(
    model: Staged, images: Tensor, wanted: Collection[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """`model.forward_features(images)`, and the maps of some blocks.

    Args:
        model: A PiT, plain or distilled, or a PVT v2.
        images: `(B, C, H, W)`.
        wanted: Block indices, counted over all stages.

    Returns:
        The features, and a map `(B, C, H, W)` for each block that is wanted.
    """
    if isinstance(model, PoolingVisionTransformer):
        return _pit(model, images, wanted)
    return _pvt_v2(model, images, wanted)


def _pit(model: Any, images: Tensor, wanted: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
    maps: dict[int, Tensor] = {}
    number = 0
    x = model.pos_drop(model.patch_embed(images) + model.pos_embed)  # (B, C, H, W)
    prefix = model.cls_token.expand(len(x), -1, -1)  # (B, 1 or 2, C)
    count = prefix.shape[1]
    for stage in model.transformers:
        if stage.pool is not None:
            x, prefix = stage.pool(x, prefix)
        grid = x.shape[-2:]
        tokens = stage.norm(torch.cat([prefix, x.flatten(2).mT], dim=1))  # (B, count + H * W, C)
        for block in stage.blocks:
            tokens = block(tokens)
            if number in wanted:
                maps[number] = tokens[:, count:].mT.unflatten(-1, grid)
            number += 1
        prefix = tokens[:, :count]
        x = tokens[:, count:].mT.unflatten(-1, grid)
    return model.norm(prefix), maps


def _pvt_v2(
    model: Any, images: Tensor, wanted: Collection[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    maps: dict[int, Tensor] = {}
    number = 0
    x = model.patch_embed(images)  # (B, H, W, C)
    for stage in model.stages:
        if stage.downsample is not None:
            x = stage.downsample(x)  # (B, H, W, C) from (B, C, H, W)
        grid = x.shape[1:3]
        tokens = x.flatten(1, 2)  # (B, H * W, C)
        for block in stage.blocks:
            if stage.grad_checkpointing and model.training:
                tokens = checkpoint(block, tokens, grid, use_reentrant=False)
            else:
                tokens = block(tokens, grid)
            if number in wanted:
                maps[number] = tokens.mT.unflatten(-1, grid)
            number += 1
        x = stage.norm(tokens).mT.unflatten(-1, grid).contiguous()  # (B, C, H, W)
    return x, maps
