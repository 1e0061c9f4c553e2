"""Which patches a model keeps at several keep rates."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrellis.models.evit import EViT, prune_tokens


class KeptTokens(NamedTuple):
    """The patches that a model keeps at one keep rate."""

    keep_rate: float | None
    """The share of tokens that a shrinking layer keeps; None for the model's own rates, where they
    differ from layer to layer."""
    layers: tuple[int, ...]
    """The layers that leave tokens behind, 0-based."""
    masks: list[Tensor]
    """What is left after each of `layers`: bool `(B, rows, columns)`."""


def kept_tokens(
    model: nn.Module,
    name: str,
    images: Tensor,
    keep_rates: Sequence[float] = (),
    layers: Sequence[int] = (),
) -> list[KeptTokens]:
    """The patches that are kept, layer by layer, at each of several keep rates.

    Args:
        model: An EViT, or a plain ViT that is pruned here as if it was one; in eval mode. It is not
            changed.
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
    is_own = isinstance(pruned, EViT)
    if not isinstance(pruned, EViT):
        prune_tokens(pruned, name, keep_rate=1.0, drop_layers=())
        keep_rates = keep_rates or DEFAULT_RATES
    assert isinstance(pruned, EViT)
    if layers or not is_own:
        layers = tuple(layers) or quarters(len(pruned.blocks))
    else:
        layers = pruned.drop_layers
    found = [] if keep_rates else [_kept(pruned, None, images)]
    for rate in keep_rates:
        pruned.set_pruning(rate, layers, pruned.fuse_token)
        found.append(_kept(pruned, rate, images))
    return found


DEFAULT_RATES = (0.9, 0.7, 0.5)
"""The keep rates at which a model that keeps all tokens is shown."""


def quarters(depth: int) -> tuple[int, ...]:
    """The layers at a quarter, half and three quarters: 3, 6 and 9 of 12, as EViT has them."""
    return tuple(sorted({depth * part // 4 for part in (1, 2, 3)}))


@torch.no_grad()
def _kept(model: EViT, rate: float | None, images: Tensor) -> KeptTokens:
    layers = tuple(layer for layer, own in enumerate(model.keep_rate) if own < 1)
    if rate is None and len({model.keep_rate[layer] for layer in layers}) == 1:
        rate = model.keep_rate[layers[0]]
    rows, columns = model.patch_embed.dynamic_feat_size(images.shape[-2:])
    positions = model.kept_positions(images)
    masks = []
    for layer in layers or (len(positions) - 1,):
        mask = torch.zeros(len(images), rows * columns + 1, dtype=torch.bool, device=images.device)
        places = positions[layer].clamp(min=-1)  # -1, a fused token, is the last of the row
        mask.scatter_(1, places % mask.shape[1], True)
        masks.append(mask[:, :-1].unflatten(1, (rows, columns)))
    return KeptTokens(rate, layers, masks)


def share_kept(mask: Tensor) -> tuple[int, int]:
    """The patches that are left of an image, and all of them.

    Args:
        mask: bool `(rows, columns)`.
    """
    return int(mask.sum()), math.prod(mask.shape)
