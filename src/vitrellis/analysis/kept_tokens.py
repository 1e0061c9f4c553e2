"""Which patches a model keeps at several keep rates."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrellis.models.support.prune_tokens import prune_tokens
from vitrellis.models.support.token_reduction import GONE, TokenReduction
from vitrellis.models.tome import ToMe

LEFT_BEHIND = GONE
"""The token of a patch that was left behind."""


class KeptTokens(NamedTuple):
    """The patches that a model keeps at one keep rate."""

    keep_rate: float | None
    """The share of tokens that a shrinking layer keeps; None for the model's own rates, where they
    differ from layer to layer."""
    layers: tuple[int, ...]
    """The layers that leave tokens behind or merge them, 0-based."""
    tokens: list[Tensor]
    """The token of each patch after each of `layers`, `(B, rows, columns)`; `LEFT_BEHIND` for one
    that was. Patches that were merged have the same token."""
    merges: bool
    """Whether tokens are merged; the others are left behind."""


def kept_tokens(
    model: nn.Module,
    name: str,
    images: Tensor,
    keep_rates: Sequence[float] = (),
    layers: Sequence[int] = (),
) -> list[KeptTokens]:
    """The patches that are kept, layer by layer, at each of several keep rates.

    Args:
        model: A model that prunes, or one that is pruned here as EViT would; in eval mode. It is
            not changed.
        name: Its name, for messages.
        images: `(B, C, H, W)`, normalised.
        keep_rates: The rates. By default a model that prunes is shown as it is, and others at 0.9,
            0.7 and 0.5.
        layers: The layers that leave tokens behind. By default those of a model that prunes, and
            for others those at a quarter, half and three quarters of its depth, as in EViT.

    Raises:
        UsageError: If tokens cannot be left out of the model.
        ValueError: If a rate is not above 0 and at most 1, or there is no such layer.
    """
    pruned = copy.deepcopy(model)
    is_own = isinstance(pruned, TokenReduction)
    if not is_own:
        prune_tokens(pruned, name, keep_rate=1.0, drop_layers=())
        keep_rates = keep_rates or DEFAULT_RATES
    assert isinstance(pruned, TokenReduction)
    if not layers:
        layers = pruned.drop_layers if is_own else quarters(pruned.depth)
    found = [] if keep_rates else [_kept(pruned, None, images)]
    for rate in keep_rates:
        pruned.set_pruning(rate, layers, getattr(pruned, "fuse_token", True))
        found.append(_kept(pruned, rate, images))
    return found


DEFAULT_RATES = (0.9, 0.7, 0.5)
"""The keep rates at which a model that keeps all tokens is shown."""


def quarters(depth: int) -> tuple[int, ...]:
    """The layers at a quarter, half and three quarters: 3, 6 and 9 of 12, as EViT has them."""
    return tuple(sorted({depth * part // 4 for part in (1, 2, 3)}))


@torch.no_grad()
def _kept(model: TokenReduction, rate: float | None, images: Tensor) -> KeptTokens:
    layers = tuple(layer for layer, own in enumerate(model.keep_rate) if own < 1)
    rates = {model.keep_rate[layer] for layer in layers}
    if rate is None and len(rates) == 1:
        rate = rates.pop()
    shown = layers or (model.depth - 1,)
    _, found, grid = model.reduce(images, model.keep_rate, set(shown))
    tokens = [layer.token_of_patch.unflatten(1, grid) for layer in found]
    return KeptTokens(rate, layers, tokens, isinstance(model, ToMe))
