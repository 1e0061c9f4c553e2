"""Fine-tuning by layers: parts of a model that stay as they are, and learning rates that decay.

Layers are timm's: `group_matcher` says which parameters belong to the embedding, to each block and
to the head. Layer-wise learning-rate decay is that of BEiT (https://arxiv.org/abs/2106.08254), as
timm computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitrellis.errors import UsageError
from vitrellis.models.support.heads import head_modules

FrozenParts = Literal["body"] | int | Sequence[str]
"""All but the classifiers, a number of layers from the input on, or names."""


def freeze(model: nn.Module, what: FrozenParts, name: str) -> None:
    """Makes a part of a model stay as it is: its parameters get no gradient.

    Args:
        model: A timm model or one of ours.
        what: "body" for all but the classifiers; a number of layers from the input on, of which the
            embedding is the first; or names of modules or parameters.
        name: The name of the model, for messages.

    Raises:
        UsageError: If there is no such layer or name, or nothing would be left to train.
    """
    names = _names(model, what, name)
    parameters = dict(model.named_parameters())
    for frozen in names:
        parameters[frozen].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError(
            f"init.freeze: all of {name} would stay as it is. Leave something to train"
        )


def keep_frozen_norms(model: nn.Module) -> int:
    """Puts batch norms whose parameters are frozen into eval mode; the others stay as they are.

    Returns:
        The number of such batch norms.
    """
    norms = [module for module in model.modules() if _is_frozen_norm(module)]
    for module in norms:
        module.eval()
    return len(norms)


def frozen_parts(model: nn.Module) -> list[str]:
    """The names of the parts that stay as they are, as few as possible.

    A module is named if all of its parameters are frozen and those of the module around it are not.
    """
    parts: list[str] = []
    _collect(model, "", parts)
    return parts


def layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """The factor of the learning rate of each parameter that is trained, by its name.

    Args:
        model: A timm model or one of ours.
        layer_decay: The factor from each layer to the one before it, towards the input.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = param_groups_layer_decay(model, layer_decay=layer_decay)
    return {
        names[id(parameter)]: float(group["lr_scale"])
        for group in groups
        for parameter in group["params"]
    }


def _names(model: nn.Module, what: FrozenParts, name: str) -> list[str]:
    """The full names of the parameters that are frozen."""
    all_names = [key for key, _ in model.named_parameters()]
    if what == "body":
        heads = {id(p) for head in head_modules(model) for p in head.parameters()}
        return [key for key, parameter in model.named_parameters() if id(parameter) not in heads]
    if isinstance(what, int):
        layers = _layers(model, name)
        if what > len(layers):
            raise UsageError(
                f"init.freeze: {what} layers, but {name} has {len(layers)} without its head, the "
                "embedding among them"
            )
        return [key for layer in layers[:what] for key in layer]
    found = []
    for part in what:
        inside = [key for key in all_names if key == part or key.startswith(f"{part}.")]
        if not inside:
            tops = dict.fromkeys(key.split(".")[0] for key in all_names)
            inner = next(key for key in all_names if "." in key).rsplit(".", 1)[0]
            known = ", ".join(tops)
            raise UsageError(
                f"init.freeze: {name} has no part {part!r}. Its parts are {known}, and those in "
                f"them, such as {inner}"
            )
        found += inside
    return found


def _layers(model: nn.Module, name: str) -> list[list[str]]:
    """The names of the parameters of each layer from the input on, without the last, the head."""
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None:
        raise UsageError(
            f"init.freeze: the layers of {name} are not known (it has no group_matcher); give "
            "names of its parts instead"
        )
    layer_of: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    layers: list[list[str]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for key, number in layer_of.items():
        layers[number].append(key)
    heads = {id(p) for head in head_modules(model) for p in head.parameters()}
    parameters = dict(model.named_parameters())
    body = [[key for key in layer if id(parameters[key]) not in heads] for layer in layers]
    return [layer for layer in body if layer]


def _is_frozen_norm(module: nn.Module) -> bool:
    if not isinstance(module, _BatchNorm):
        return False
    parameters = list(module.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _collect(module: nn.Module, name: str, parts: list[str]) -> None:
    parameters = list(module.parameters())
    if name and parameters and not any(parameter.requires_grad for parameter in parameters):
        parts.append(name)
        return
    for key, parameter in module.named_parameters(recurse=False):
        if not parameter.requires_grad:
            parts.append(f"{name}.{key}" if name else key)
    for key, child in module.named_children():
        _collect(child, f"{name}.{key}" if name else key, parts)
