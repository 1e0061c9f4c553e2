"""Feature taps: spatial maps read from inside any model, which is left as it is.

A tap names a block: a 0-based index in order of depth. Of plain transformers (ViT, DeiT, ConViT,
DHVT), PiT and PVT v2 that is a transformer block, counted over all stages. Of our CNNs and ImageNet
ResNets it is a stage (`layer1` is 0, as in the published recipes). Of any other model it is what
timm lists as a feature level: of Swin and ConvNeXt a stage. Maps are block outputs before any norm
that follows, without class and distillation tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from vitrellis.errors import UsageError
from vitrellis.models.support.staged import Staged, num_staged_blocks, staged_forward

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
    """How many blocks can be tapped.

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
    device = next(model.parameters()).device
    # in eval mode a batch of one works, and no statistics are touched
    for module in was_training:
        module.training = False
    try:
        _, maps = forward_with_maps(
            model, torch.zeros(1, in_chans, *img_size, device=device), blocks
        )
    finally:
        for module, mode in was_training.items():
            module.training = mode
    return [taken.shape[1] for taken in maps]


def _first_level(model: nn.Module) -> int:
    """Of a ResNet timm counts the stem as a level; the published recipes count stages only."""
    return 1 if isinstance(model, ResNet) else 0


def _name(model: nn.Module) -> str:
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    return str(cfg.get("architecture") or type(model).__name__)
