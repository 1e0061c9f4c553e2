"""Finds batch norms that cannot be trained on one image at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def norm_of_one_value(model: nn.Module, in_chans: int, img_size: tuple[int, int]) -> str | None:
    """The first batch norm that has one value of each channel in one image; None without any.

    Where the map is one pixel, or a vector, the variance over a batch of one image is not defined,
    and torch refuses to train.

    Args:
        model: The model; batch norms and the mode are left as they are.
        in_chans: The number of channels.
        img_size: `(H, W)` in pixels.
    """
    found: list[str] = []
    was_training = {module: module.training for module in model.modules()}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: found.append(name) if _is_one_value(args[0]) else None
        )
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
    ]
    if not hooks:
        return None
    try:
        for module in was_training:
            module.training = False
        model(torch.zeros(1, in_chans, *img_size, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in was_training.items():
            module.training = mode
    return found[0] if found else None


def _is_one_value(images: Tensor) -> bool:
    """Whether `(1, C)` or `(1, C, H, W)` has one value of each channel."""
    return images.numel() == images.shape[1]
