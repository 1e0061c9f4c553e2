"""Two classifiers on one model: one learns the labels, the other a teacher (DeiT, section 4).

Some models have a distillation token with a head of its own (`*_distilled_*`; in timm some CNNs,
too). `add_distillation_head` gives any other a second classifier on the features of its first.
Either way the two are apart in training, and averaged in evaluation, as published.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitrellis.errors import UsageError

INITIAL_STD = 0.02
"""The standard deviation of a second classifier's initial weights, as in DeiT."""


class TwinHead(nn.Module):
    """Two classifiers of the same features.

    Args:
        classifier: The first; the second is one like it, newly initialised.

    Attributes:
        label: The first, which learns the labels.
        distillation: The second, which learns from a teacher.
        distilled_training: timm's word for whether both are returned in training; otherwise, and
            in evaluation, their average is.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.label = classifier
        self.distillation = copy.deepcopy(classifier)
        self.distilled_training = False
        for layer in self.distillation.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits `(B, K)`, or two of them, from what a classifier takes."""
        label, distillation = self.label(features), self.distillation(features)
        if self.distilled_training and self.training:
            return label, distillation
        return (label + distillation) / 2


def add_distillation_head(model: nn.Module, name: str) -> None:
    """Gives a model a second classifier.

    Args:
        model: A timm model or one of ours, with a classifier.
        name: Its name, for errors.

    Raises:
        UsageError: If it has two heads already, or its classifier cannot be doubled.
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


def merge_heads(model: nn.Module) -> bool:
    """Makes one classifier of the two that `add_distillation_head` gave a model.

    It returns what the two return in evaluation: the mean of two linear layers is the linear layer
    of their mean weights.

    Args:
        model: Any model; it is changed in place if it has such heads.

    Returns:
        Whether it had.

    Raises:
        UsageError: If the two are more than one linear layer each.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, TwinHead)]
    for name in names:
        twin = model.get_submodule(name)
        assert isinstance(twin, TwinHead)
        merged = twin.label
        if not isinstance(merged, nn.Linear | nn.Conv2d):
            raise UsageError(
                f"{type(model).__name__}: its two classifiers, {type(merged).__name__}, cannot be "
                "made one; only linear layers can"
            )
        with torch.no_grad():
            for mine, other in zip(
                merged.parameters(), twin.distillation.parameters(), strict=True
            ):
                mine.copy_((mine + other) / 2)
        model.set_submodule(name, merged)
    return bool(names)


def has_distillation_head(model: nn.Module) -> bool:
    """Whether the model has two classifiers."""
    return len(head_modules(model)) == 2


def head_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """The classifier; where there are two, the labels' and then the teacher's.

    Raises:
        UsageError: If the model does not follow timm's convention, `get_classifier`.
    """
    get_classifier: Any = getattr(model, "get_classifier", None)
    if get_classifier is None:
        raise UsageError(f"{type(model).__name__} has no get_classifier(), as timm's models have")
    classifier = get_classifier()
    if isinstance(classifier, TwinHead):
        return classifier.label, classifier.distillation
    return tuple(classifier) if isinstance(classifier, tuple | list) else (classifier,)


def set_heads_apart(model: nn.Module) -> None:
    """Makes a model return the logits of both of its heads in training.

    Args:
        model: A model with two heads.
    """
    assert has_distillation_head(model), "one head cannot be apart"
    for module in _holders(model):
        module.distilled_training = True


@contextmanager
def separate_heads(model: nn.Module) -> Iterator[None]:
    """Within it, `model(images)` returns `(class_logits, distillation_logits)` if it has both.

    Of the model, only the module that holds the two heads is put into training mode, without the
    modules in it: norms and dropout stay as they are. Models with one head are left alone.

    Args:
        model: Any timm model or one of ours; is afterwards as it was before.
    """
    holders = _holders(model)
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


def _holders(model: nn.Module) -> list[Any]:
    """Modules that timm gives a switch for keeping the heads apart in training mode."""
    return [module for module in model.modules() if "distilled_training" in vars(module)]
