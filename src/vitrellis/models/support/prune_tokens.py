"""Makes a model leave tokens behind, or merge them, in place: its weights stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

from vitrellis.errors import UsageError
from vitrellis.models.dhvt import DHVT
from vitrellis.models.evit import EViT, EViTDistilled
from vitrellis.models.pruned_dhvt import PrunedDHVT
from vitrellis.models.support.token_reduction import KeepRate, TokenReduction
from vitrellis.models.tome import ToMe, ToMeDistilled

PRUNING = ("keep_rate", "drop_layers", "fuse_token", "merge_tokens")
"""The arguments of `create_model` that `prune_tokens` takes."""

_REDUCED: dict[tuple[type[nn.Module], bool], type[TokenReduction]] = {
    (VisionTransformer, False): EViT,
    (VisionTransformerDistilled, False): EViTDistilled,
    (DHVT, False): PrunedDHVT,
    (VisionTransformer, True): ToMe,
    (VisionTransformerDistilled, True): ToMeDistilled,
    (EViT, True): ToMe,
    (EViTDistilled, True): ToMeDistilled,
}
"""The class that a model gets, by its own and by whether tokens are merged."""


def prune_tokens(
    model: nn.Module,
    name: str,
    *,
    keep_rate: KeepRate = 0.7,
    drop_layers: Sequence[int] = (3, 6, 9),
    fuse_token: bool = True,
    merge_tokens: bool = False,
) -> None:
    """Makes a model compute with fewer tokens, in place; its weights stay as they are.

    Args:
        model: A model of timm's classes for ViT and DeiT, with a class token, or a DHVT.
        name: Its name, for messages.
        keep_rate: The share of tokens that a shrinking layer keeps: one number, or one for each
            layer.
        drop_layers: The layers that shrink, 0-based, if it is one number.
        fuse_token: Sum up what is left behind in one more token.
        merge_tokens: Merge similar tokens (ToMe) in place of leaving some behind (EViT).

    Raises:
        UsageError: If tokens cannot be left out of the model, with the reason.
        ValueError: If the rate or a layer does not fit.
    """
    obstacle = obstacle_to_pruning(model, merge_tokens=merge_tokens)
    if obstacle is not None:
        raise UsageError(
            f"{name}: tokens cannot be left out of it, because {obstacle}. Use a plain ViT or DeiT "
            "with a class token, such as deit_tiny_patch16_224 or vit_tiny_patch4_32, or leave out "
            "pruning (model.args.keep_rate, drop_layers, fuse_token)"
        )
    pruned: Any = model
    pruned.__class__ = _REDUCED[type(model), merge_tokens]
    pruned.set_pruning(keep_rate, drop_layers, fuse_token)


_WITHOUT = {
    False: "whose attention ranks the patches",
    True: "and an average over tokens would count a merged one once",
}


def obstacle_to_pruning(model: Any, *, merge_tokens: bool = False) -> str | None:
    """The reason why tokens cannot be left out of a model, None if they can.

    Args:
        model: The model, which is not changed.
        merge_tokens: Whether they are to be merged.
    """
    if type(model) is DHVT:
        if merge_tokens:
            return "a merged token would be in several places of the grid that DHVT convolves"
        return None
    if (type(model), merge_tokens) not in _REDUCED:
        return f"the layers of {type(model).__name__} may need every patch in its place"
    if model.cls_token is None:
        return f"it has no class token, {_WITHOUT[merge_tokens]}"
    if model.global_pool != "token" or model.attn_pool is not None:
        return (
            f"it does not classify by its class token, {_WITHOUT[merge_tokens]}; "
            "model.args.global_pool=token changes that"
        )
    if not isinstance(model.patch_drop, nn.Identity):
        return "it drops patches at random; leave out patch_drop_rate"
    for block in model.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            return "its blocks are not timm's plain ones"
    return None
