"""Two classifiers on one model: one learns the labels, the other a teacher (DeiT, section 4).

Some models have a distillation token with a head of its own (timm's and our `*_distilled_*`). Any
other gets a second classifier beside its first, on the same features, by `add_distillation_head`.
Either way the two are apart in training, and averaged in evaluation, as published.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vitrellis.errors import UsageError

INITIAL_STD = 0.02
"""Of the weights of a second classifier, as of DeiT's."""


class TwinHead(nn.Module):
    """Two classifiers of the same features.

    Args:
        classifier: The first; the second is one like it, newly initialised.

    Attributes:
        label: The first, which learns the labels.
        distillation: The second, which learns from a teacher.
        apart: Whether both are returned in training; otherwise, and in evaluation, their average.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.label = classifier
        self.distillation = copy.deepcopy(classifier)
        self.apart = False
        for layer in self.distillation.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits `(B, K)`, or two of them, from what a classifier takes."""
        label, distillation = self.label(features), self.distillation(features)
        if self.apart and self.training:
            return label, distillation
        return (label + distillation) / 2


def add_distillation_head(model: nn.Module, name: str) -> None:
    """Gives a model a second classifier.

    Args:
        model: A timm model or one of ours, with a classifier.
        name: Its name, for errors.

    Raises:
        UsageError: If it has two heads already, or its classifier is none that can be doubled.
    """
    if has_distillation_head(model):
        raise UsageError(f"{name}: has a distillation head already; leave out distillation_head")
    classifier = head_modules(model)[0]
    if not any(isinstance(layer, nn.Linear | nn.Conv2d) for layer in classifier.modules()):
        raise UsageError(
            f"{name}: its classifier, {type(classifier).__name__}, cannot have a second one beside "
            "it; leave out distillation_head"
        )
    place = next(key for key, module in model.named_modules() if module is classifier)
    model.set_submodule(place, TwinHead(classifier))


def has_distillation_head(model: nn.Module) -> bool:
    """Whether it has two classifiers."""
    return len(head_modules(model)) == 2


def head_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """The classifier; where there are two, the labels' and then the teacher's.

    Raises:
        UsageError: If the model does not follow timm's convention, `get_classifier`.
    """
    get_classifier: Any = getattr(model, "get_classifier", None)
    if get_classifier is None:
        raise UsageError(f"{type(model).__name__} has no get_classifier(), as timm's models have")
    found = get_classifier()
    if isinstance(found, TwinHead):
        return found.label, found.distillation
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def set_heads_apart(model: nn.Module) -> None:
    """Lets a model with two heads return both of their logits in training.

    Args:
        model: With two heads.
    """
    assert has_distillation_head(model), "one head cannot be apart"
    for module in model.modules():
        if isinstance(module, TwinHead):
            module.apart = True
            return
    enable: Any = model.set_distilled_training
    enable(True)


@torch.no_grad()
def forward_heads(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Logits of every head, whatever mode the model is in.

    Args:
        model: A timm model or one of ours.
        images: `(B, C, H, W)`.

    Returns:
        `(B, K)` for each of `head_modules(model)`.
    """
    caught: dict[int, Tensor] = {}

    def catch(number: int) -> Any:
        def keep(module: nn.Module, given: object, logits: Tensor) -> None:
            caught[number] = logits

        return keep

    heads = head_modules(model)
    handles = [head.register_forward_hook(catch(number)) for number, head in enumerate(heads)]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(caught[number] for number in range(len(heads)))
