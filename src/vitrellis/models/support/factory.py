"""Any model by name: timm's, and those that timm lacks."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models.support.heads import add_distillation_head, head_modules
from vitrellis.models.support.weights import load_initial

_PACKAGE = "vitrellis.models."

# importing a model file registers its models with timm
for _file in pkgutil.iter_modules([str(Path(__file__).parents[1])]):
    importlib.import_module(_PACKAGE + _file.name)

IN_TIMM = (
    "convit_tiny",
    "deit_base_distilled_patch16_224",
    "deit_base_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit_tiny_patch16_224",
    "pit_ti_224",
    "pit_ti_distilled_224",
    "pvt_v2_b0",
    "resnet18",
    "resnet50",
)
"""Models of timm that the published systems train. The list is a choice; ours are found."""


REFUSALS = (AssertionError, RuntimeError, TypeError, ValueError)
"""The errors by which timm's and torch's constructors refuse an argument."""


def list_models() -> list[str]:
    """The names of the models that this package adds to timm's."""
    names = timm.list_models()
    return sorted(n for n in names if timm.model_entrypoint(n).__module__.startswith(_PACKAGE))


def create_model(
    name: str,
    *,
    num_classes: int,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    weights: Path | None = None,
    weights_ema: bool = False,
    zero_head: bool = False,
    distillation_head: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """A model by name, timm's or ours.

    Args:
        name: A name from `timm.list_models()` or `list_models()`.
        num_classes: K, the number of classes.
        img_size: Pixels, one number or `(H, W)`. It is not passed to CNNs, which take any size.
        in_chans: The number of image channels.
        pretrained: Start from timm's published weights, which are downloaded.
        weights: Start from the weights in this file; a head of other classes is left new.
        weights_ema: Take the moving average of the weights that the file holds beside them.
        zero_head: Set weights and biases of the classifier, or of both, to exactly zero, whatever
            they started from. All logits are then 0 before the first step, as in DeiT's code. Terms
            that standardize logits should not start so.
        distillation_head: Give it a second classifier, which learns from a teacher.
        **kwargs: Further arguments of the model, such as `drop_path_rate`.

    Raises:
        UsageError: If the name or an argument is unknown, or there are no published weights.
        VitrellisError: If weights cannot be had, or are another model's.
    """
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise _unknown_model(name)
    if pretrained and weights is not None:
        raise UsageError(f"{name}: give either pretrained or weights, not both")
    if pretrained and not timm.is_model_pretrained(name):
        raise UsageError(f"{name}: no weights are published for it. Give a file: model.weights")
    if img_size is not None and takes_img_size(architecture):
        kwargs["img_size"] = img_size
    try:
        model = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **kwargs
        )
    except OSError as error:
        if not pretrained:
            raise
        raise VitrellisError(
            f"{name}: its published weights could not be downloaded; is there a network? "
            "A file of weights can be given in its place: model.weights"
        ) from error
    except REFUSALS as error:
        if architecture in list_models() and not _can_be_built(architecture):
            raise  # the fault is in our file, not in what the user wrote
        reason = " ".join(str(error).split("() ", 1)[-1].split())[:300]
        raise UsageError(f"{name}: {reason} (see model.args, or img_size)") from error
    assert isinstance(model, nn.Module)
    if weights is not None:
        load_initial(model, weights.expanduser(), ema=weights_ema)
    if distillation_head:
        add_distillation_head(model, name)
    if zero_head:
        _zero_head(model, name)
    return model


def takes_img_size(architecture: str) -> bool:
    """Whether the model is built for one size of images, and so takes `img_size`.

    timm says so of every architecture by `fixed_input_size`. The others, CNNs and some
    transformers, take images of any size.

    Args:
        architecture: A model name without the tag of its weights.
    """
    cfg = timm.get_pretrained_cfg(architecture)
    return cfg is not None and cfg.fixed_input_size


def _zero_head(model: nn.Module, name: str) -> None:
    for classifier in head_modules(model):
        # some classifiers are a norm and a layer; some CNNs classify by a 1x1 convolution
        layers = [m for m in classifier.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        if not layers:
            raise UsageError(
                f"{name}: its classifier, {type(classifier).__name__}, cannot start at zero; "
                "leave out model.zero_head"
            )
        for layer in layers:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _unknown_model(name: str) -> UsageError:
    ours = list_models()
    near = difflib.get_close_matches(name, [*ours, *timm.list_models()], n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return UsageError(
        f"unknown model {name!r}.{hint} `vitrellis models --all` lists them; ours are "
        f"{', '.join(ours)}"
    )


def _can_be_built(architecture: str) -> bool:
    """Whether a model can be built when no argument is given."""
    try:
        with torch.device("meta"):
            timm.create_model(architecture)
    except REFUSALS:
        return False
    return True
