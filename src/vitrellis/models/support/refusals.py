"""Which argument a model refuses, and whether it takes images of a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from vitrellis.errors import UsageError

REFUSALS = (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
"""The errors by which timm's and torch's models refuse an argument, or a size of images."""

_NOT_THE_MODELS = ("pretrained", "num_classes", "in_chans")
"""The arguments of every model, which are not refused."""


def refused(architecture: str, arguments: Mapping[str, Any], reason: Exception) -> UsageError:
    """The error for arguments that a model cannot be built with.

    It names the argument without which the model can be built, if there is exactly one.

    Args:
        architecture: A model name without the tag of its weights.
        arguments: The arguments.
        reason: One of `REFUSALS`, the model's own reason.
    """
    words = " ".join(str(reason).split("() ", 1)[-1].split())[:300]
    given = {key: value for key, value in arguments.items() if key not in _NOT_THE_MODELS}
    faults = []
    if not can_be_built(architecture, given):
        for name in given:
            others = {key: value for key, value in given.items() if key != name}
            faults += [name] if can_be_built(architecture, others) else []
    if len(faults) != 1:
        return UsageError(f"{architecture}: {words} (see model.args, or img_size)")
    (name,) = faults
    error = UsageError(f"{architecture} refuses {name}={given[name]!r}: {words}")
    error.argument = name if name == "img_size" else f"args.{name}"
    return error


def can_be_built(architecture: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a model can be built with these arguments, found without its weights."""
    try:
        with torch.device("meta"):
            timm.create_model(architecture, **arguments)
    except REFUSALS:
        return False
    return True


@torch.no_grad()
def check_takes_images(
    model: nn.Module, name: str, in_chans: int, img_size: tuple[int, int]
) -> None:
    """Makes sure that a model computes something of images of this size.

    Some of timm's models are built for sizes that they cannot take, and say so when they compute.

    Args:
        model: The model; batch norms and the mode are left as they are.
        name: Its name, for the message.
        in_chans: The number of channels.
        img_size: `(H, W)` in pixels.

    Raises:
        UsageError: With the model's own reason.
    """
    is_training = model.training
    try:
        model.eval()(torch.zeros(1, in_chans, *img_size))
    except REFUSALS as error:
        raise UsageError(
            f"{name}: cannot take images of {img_size[0]}x{img_size[1]} pixels: "
            f"{' '.join(str(error).split())[:300]} (see input.img_size)"
        ) from error
    finally:
        model.train(is_training)
