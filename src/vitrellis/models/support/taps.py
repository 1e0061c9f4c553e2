"""Feature taps: spatial maps read from inside any model, which is left as it is.

A tap names a block: a 0-based index in order of depth. In plain transformers (ViT, DeiT, ConViT,
DHVT), PiT and PVT v2 that is a transformer block, counted over all stages. In our CNNs and ImageNet
ResNets it is a stage (`layer1` is 0, as in the published recipes). In any other model it is what
timm lists as a feature level: a stage in Swin and ConvNeXt. Maps are block outputs before any norm
that follows, without class and distillation tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from timm.models.pit import PoolingVisionTransformer
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrellis.errors import UsageError
from vitrellis.user_cache import keep_compiled_code

Logits = Tensor | tuple[Tensor, Tensor]


def forward_with_maps(
    model: nn.Module, images: Tensor, blocks: Sequence[int]
) -> tuple[Logits, list[Tensor]]:
    """One forward pass, and the feature maps of some blocks.

    Args:
        model: A timm model or one of ours.
        images: `(B, C, H, W)`.
        blocks: Block indices, in any order.

    Returns:
        What `model(images)` returns: logits `(B, K)`, or two of them from a distilled model in
        distilled training. And a map `(B, C, H, W)` for each of `blocks`, in their order.

    Raises:
        UsageError: If the model cannot be tapped, or has no such block.
    """
    if not blocks:
        return model(images), []
    count = num_blocks(model)
    for block in blocks:
        if not 0 <= block < count:
            raise UsageError(
                f"{_name(model)} has {count} blocks to tap, 0 to {count - 1}; there is no {block}"
            )
    head: Any = model.forward_head
    if isinstance(model, Staged):
        features, by_block = staged_forward(model, images, blocks)
        return head(features), [by_block[block] for block in blocks]
    offset = _first_level(model)
    levels = sorted({block + offset for block in blocks})
    forward: Any = model.forward_intermediates
    features, maps = forward(images, indices=levels, norm=False, output_fmt="NCHW")
    by_level = dict(zip(levels, maps, strict=True))
    return head(features), [by_level[block + offset] for block in blocks]


def num_blocks(model: nn.Module) -> int:
    """The number of blocks that can be tapped.

    Raises:
        UsageError: If the model cannot be tapped.
    """
    if isinstance(model, Staged):
        return num_staged_blocks(model)
    info: Any = getattr(model, "feature_info", None)
    if not hasattr(model, "forward_intermediates") or not info:
        raise UsageError(
            f"{_name(model)} cannot be tapped for feature maps: it has no forward_intermediates. "
            "Use another model, or a term that needs none, such as distillation"
        )
    return len(info) - _first_level(model)


@torch.no_grad()
def block_channels(
    model: nn.Module, blocks: Sequence[int], in_chans: int, img_size: tuple[int, int]
) -> list[int]:
    """Channels of the maps of some blocks, found by one forward pass of an empty image.

    Args:
        model: A timm model or one of ours.
        blocks: Block indices.
        in_chans: Image channels.
        img_size: `(H, W)` in pixels.

    Raises:
        UsageError: If the model cannot be tapped, or has no such block.
    """
    was_training = {module: module.training for module in model.modules()}
    first = next(model.parameters())
    dtype = first.dtype if first.is_floating_point() else torch.float32  # a teacher in half
    # in eval mode a batch of one works, and no statistics are touched
    for module in was_training:
        module.training = False
    try:
        _, maps = forward_with_maps(
            model, torch.zeros(1, in_chans, *img_size, device=first.device, dtype=dtype), blocks
        )
    finally:
        for module, mode in was_training.items():
            module.training = mode
    return [taken.shape[1] for taken in maps]


def _first_level(model: nn.Module) -> int:
    """The level of block 0; timm counts the stem of a ResNet, the published recipes do not."""
    return 1 if isinstance(model, ResNet) else 0


def _name(model: nn.Module) -> str:
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    return str(cfg.get("architecture") or type(model).__name__)


Staged = PoolingVisionTransformer | PyramidVisionTransformerV2


def num_staged_blocks(model: Staged) -> int:
    """Blocks of all stages together."""
    stages: Any = (
        model.transformers if isinstance(model, PoolingVisionTransformer) else model.stages
    )
    return sum(len(stage.blocks) for stage in stages)


def staged_forward(
    model: Staged, images: Tensor, numbers: Collection[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """`model.forward_features(images)`, and the maps of some blocks.

    Args:
        model: A PiT, plain or distilled, or a PVT v2.
        images: `(B, C, H, W)`.
        numbers: Block indices, counted over all stages.

    Returns:
        The features, and a map `(B, C, H, W)` for each of these blocks.
    """
    if isinstance(model, PoolingVisionTransformer):
        return _pit(model, images, numbers)
    return _pvt_v2(model, images, numbers)


def _pit(model: Any, images: Tensor, numbers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
    maps: dict[int, Tensor] = {}
    number = 0
    x = model.pos_drop(model.patch_embed(images) + model.pos_embed)  # (B, C, H, W)
    prefix = model.cls_token.expand(x.shape[0], -1, -1)  # (B, 1 or 2, C)
    count = prefix.shape[1]
    for stage in model.transformers:
        if stage.pool is not None:
            x, prefix = stage.pool(x, prefix)
        grid = x.shape[-2:]
        tokens = stage.norm(torch.cat([prefix, x.flatten(2).mT], dim=1))  # (B, count + H * W, C)
        for block in stage.blocks:
            tokens = block(tokens)
            if number in numbers:
                maps[number] = tokens[:, count:].mT.unflatten(-1, grid)
            number += 1
        prefix = tokens[:, :count]
        x = tokens[:, count:].mT.unflatten(-1, grid)
    return model.norm(prefix), maps


def _pvt_v2(
    model: Any, images: Tensor, numbers: Collection[int]
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
            if number in numbers:
                maps[number] = tokens.mT.unflatten(-1, grid)
            number += 1
        x = stage.norm(tokens).mT.unflatten(-1, grid).contiguous()  # (B, C, H, W)
    return x, maps


def chosen_indices(num_blocks: int, indices: int | Sequence[int] | None) -> set[int]:
    """Block indices from what timm's callers pass.

    Args:
        num_blocks: The number of blocks.
        indices: A list (negative counts from the end), a number for the last so many, or None
            for all.

    Raises:
        ValueError: If an index is out of range.
    """
    if indices is None:
        return set(range(num_blocks))
    if isinstance(indices, int):
        return set(range(num_blocks - indices, num_blocks))
    numbers = {index + num_blocks if index < 0 else index for index in indices}
    outside = [index for index in numbers if not 0 <= index < num_blocks]
    if outside:
        raise ValueError(
            f"block {outside[0]}: there are {num_blocks} blocks, 0 to {num_blocks - 1}"
        )
    return numbers


TappedForward = Callable[[nn.Module, Tensor, Sequence[int]], tuple[Logits, list[Tensor]]]
"""The signature of `forward_with_maps`."""


def tapped_forward(*, compiled: bool) -> TappedForward:
    """`forward_with_maps`, or a compiled copy of it."""
    if not compiled:
        return forward_with_maps
    keep_compiled_code()
    return torch.compile(forward_with_maps)
