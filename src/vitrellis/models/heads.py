"""Both heads of a model with a distillation head, in eval mode too.

timm's distilled models (DeiT, PiT, LeViT, EfficientFormer, RepViT, ...) and our EViT return their
heads' logits one by one in distilled training only, and their mean otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def separate_heads(model: nn.Module) -> Iterator[None]:
    """Within it, `model(images)` returns `(class_logits, distillation_logits)` if it has both.

    Of the model, only the module that holds the two heads is put into training mode, without the
    modules in it: norms and dropout stay as they are. Models with one head are left alone.

    Args:
        model: Any timm model or one of ours; is afterwards as it was before.
    """
    # timm gives this attribute to what asks for training mode before it keeps the heads apart
    holders: list[Any] = [
        module for module in model.modules() if "distilled_training" in vars(module)
    ]
    before = [(module, module.distilled_training, module.training) for module in holders]
    for module in holders:
        module.distilled_training = True
        module.training = True
    try:
        yield
    finally:
        for module, distilled_training, training in before:
            module.distilled_training = distilled_training
            module.training = training
