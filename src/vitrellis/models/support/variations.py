"""Changes to any model that its constructor has no argument for, as published codes need them.

They are arguments of `create_model`, and so of `model.args` in a recipe. Only what changes the
initial weights is lost in an exported model; the rest is recorded with it.
"""

from __future__ import annotations

from typing import Any

from timm.layers import trunc_normal_
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.errors import UsageError, blaming
from vitrellis.models.support.heads import head_modules

NOT_TIMMS = ("norm_eps", "class_token_std")
"""The arguments without which timm reads an exported model nearly or exactly as it is."""

DEIT_CLASS_TOKEN_STD = 0.02
"""The standard deviation of DeiT's initial class token; timm's is 1e-6."""


class NormalizedLinear(nn.Linear):
    """A linear layer over features of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        return super().forward(F.normalize(x, dim=-1))


def vary(
    model: nn.Module,
    name: str,
    *,
    norm_eps: float | None,
    class_token_std: float | None,
    normalize_features: bool,
    stride_1x1: bool,
) -> None:
    """Changes a model in place by those arguments of `create_model`, which explains them.

    Raises:
        UsageError: If the model has nothing that one of them could change, or one is no number.
    """
    _check_number("norm_eps", norm_eps)
    _check_number("class_token_std", class_token_std)
    if class_token_std is not None:
        _init_class_token(model, name, class_token_std)
    if norm_eps is not None:
        set_norm_eps(model, norm_eps)
    if stride_1x1:
        _stride_in_first(model, name)
    if normalize_features:
        _normalize_features(model, name)


def _check_number(argument: str, value: object) -> None:
    if value is not None and not isinstance(value, int | float):
        with blaming(f"args.{argument}"):
            raise UsageError(f"{argument}={value!r} is not a number")


def set_norm_eps(model: nn.Module, eps: float) -> None:
    """Gives every layer norm of a model the same eps."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps


def _init_class_token(model: nn.Module, name: str, std: float) -> None:
    """Draws a new class token, truncated normal as in DeiT.

    Args:
        model: A transformer of timm or ours.
        name: Its name, for errors.
        std: The standard deviation.

    Raises:
        UsageError: If it has no class token.
    """
    token: Any = getattr(model, "cls_token", None)
    if not isinstance(token, nn.Parameter):
        raise UsageError(f"{name}: has no class token; leave out class_token_std")
    trunc_normal_(token, std=std)


def _normalize_features(model: nn.Module, name: str) -> None:
    """Makes the classifier take features of length 1, as PaCo's code does with `--normalize`.

    Args:
        model: A model with one linear classifier, whose weights it keeps.
        name: Its name, for errors.

    Raises:
        UsageError: If its classifier is another.
    """
    classifiers = head_modules(model)
    if len(classifiers) != 1 or type(classifiers[0]) is not nn.Linear:
        kinds = ", ".join(type(module).__name__ for module in classifiers)
        raise UsageError(
            f"{name}: normalize_features is for one linear classifier, this model has {kinds}"
        )
    old = classifiers[0]
    new = NormalizedLinear(
        old.in_features, old.out_features, bias=old.bias is not None, device="meta"
    )
    new.load_state_dict(old.state_dict(), assign=True)
    place = next(key for key, module in model.named_modules() if module is old)
    model.set_submodule(place, new)


def _stride_in_first(model: nn.Module, name: str) -> None:
    """Moves the stride of a bottleneck from its 3x3 to its first 1x1 convolution.

    That is how He et al. (CVPR 2016) and tiny-transformers (`RESNET.STRIDE_1X1`) have it.

    Raises:
        UsageError: If the model has no bottlenecks.
    """
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UsageError(f"{name}: has no bottlenecks; leave out stride_1x1")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
