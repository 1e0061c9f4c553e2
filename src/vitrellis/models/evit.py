"""EViT: a Vision Transformer that keeps attentive tokens, and drops or fuses the others.

Paper: Liang et al., "Not all patches are what you need: expediting Vision Transformers via token
reorganizations", ICLR 2022, https://arxiv.org/abs/2202.07800.
Original code: github.com/youweiliang/evit.

No parameters are added: weights of timm's DeiT of the same shape load unchanged, and the other way
round. `prune_tokens` makes any plain ViT or DeiT of timm leave tokens behind in the same way. In a
shrinking layer, tokens are ranked by the attention that the class token pays them, after the
softmax and averaged over heads; `ceil(rate * n)` of n stay.

How we differ from the original: images that are not square; a distilled form (its own mixed up
samples), in which the distillation token is no candidate and is never dropped; dropout does not
disturb the ranking; a single token is not fused with itself but left as it is; and counts are not
exposed to rounding (0.55 of 100 is 55, not 56).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import (
    Attention,
    Block,
    VisionTransformer,
    checkpoint_filter_fn,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vitrellis.errors import UsageError
from vitrellis.models.support.taps import chosen_indices
from vitrellis.models.support.variations import DEIT_CLASS_TOKEN_STD

__all__ = ["EViT", "EViTDistilled", "checkpoint_filter_fn", "default_cfgs", "prune_tokens"]

FUSED = -1
"""The position of a token that stands for several patches."""

KeepRate = float | Sequence[float]


def attend_and_rank(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """The attention of timm, and what the class token attends to.

    Args:
        attention: The layer.
        x: `(B, N, D)`, the class token first.

    Returns:
        The layer's output, `(B, N, D)`, and the class token's attention, `(B, N)`: after the
        softmax over all tokens, averaged over heads.
    """
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, h, N, d)
    q, k = attention.q_norm(q), attention.k_norm(k)
    dropout = attention.attn_drop.p if attention.training else 0.0
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    cls_attention = (q[:, :, :1] @ k.mT * attention.scale).softmax(dim=-1)  # (B, h, 1, N)
    out = attention.norm(out.transpose(1, 2).flatten(-2))
    if attention.gate is not None:
        out = out * attention.gate(x).sigmoid()
    out = attention.proj_drop(attention.proj(out))
    return out, cls_attention.mean(dim=1).squeeze(1)


def forward_shrinking(
    block: Block, x: Tensor, positions: Tensor, kept: int, fuse: bool
) -> tuple[Tensor, Tensor]:
    """The block of timm, which leaves tokens behind between attention and feed-forward.

    Args:
        block: The block.
        x: `(B, P + n, D)`: prefix tokens, then n others.
        positions: `(B, n)`, where the others were in the image.
        kept: The number of the n tokens that stay.
        fuse: Add one token that is the sum of the dropped ones, weighted by attention.

    Returns:
        The tokens that are left, `(B, P + kept, D)` or one more, in falling order of attention
        behind the prefix, and their positions.
    """
    num_prefix = x.shape[1] - positions.shape[1]
    attention: Any = block.attn
    attended, cls_attention = attend_and_rank(attention, block.norm1(x))
    x = x + block.drop_path1(block.ls1(attended))
    prefix, tokens, cls_attention = (
        x[:, :num_prefix],
        x[:, num_prefix:],
        cls_attention[:, num_prefix:],
    )
    order = cls_attention.topk(cls_attention.shape[1], dim=1).indices  # sorted; ONNX has no argsort
    tokens = tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    positions = positions.gather(1, order)[:, :kept]
    parts = [prefix, tokens[:, :kept]]
    if fuse:
        weights = cls_attention.gather(1, order)[:, kept:].unsqueeze(-1)  # (B, n - kept, 1)
        parts.append((weights * tokens[:, kept:]).sum(dim=1, keepdim=True))
        positions = F.pad(positions, (0, 1), value=FUSED)
    x = torch.cat(parts, dim=1)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), positions


class EViT(VisionTransformer):
    """A Vision Transformer that leaves tokens behind.

    Args:
        keep_rate: Share of tokens that a shrinking layer keeps: one number, or one for each layer.
        drop_layers: Layers that shrink, 0-based, if it is one number.
        fuse_token: Sum up what is left behind in one more token.
        **kwargs: Further arguments of timm's `VisionTransformer`.

    Raises:
        ValueError: If `set_keep_rate` refuses the rate, or if `patch_drop_rate` is given.
    """

    def __init__(
        self,
        *,
        keep_rate: KeepRate = 0.7,
        drop_layers: Sequence[int] = (3, 6, 9),
        fuse_token: bool = True,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("patch_drop_rate"):
            raise ValueError("patch_drop_rate: EViT chooses its tokens itself; leave it at 0")
        super().__init__(**kwargs)
        trunc_normal_(self.cls_token, std=DEIT_CLASS_TOKEN_STD)
        self.set_pruning(keep_rate, drop_layers, fuse_token)

    def set_pruning(
        self, keep_rate: KeepRate, drop_layers: Sequence[int], fuse_token: bool
    ) -> None:
        """Changes what is left behind, and where; the arguments are those of the class.

        Raises:
            ValueError: If `set_keep_rate` refuses the rate, or there is no such layer.
        """
        self.drop_layers = tuple(drop_layers)
        self.fuse_token = fuse_token
        self.set_keep_rate(keep_rate)

    def pruning_arguments(self) -> dict[str, Any]:
        """The arguments of `create_model` for a model that prunes as this one does now."""
        rates = list(enumerate(self.keep_rate))
        at_layers = {rate for layer, rate in rates if layer in self.drop_layers}
        elsewhere = {rate for layer, rate in rates if layer not in self.drop_layers}
        is_one_rate = len(at_layers) == 1 and elsewhere <= {1.0}
        return {
            "keep_rate": at_layers.pop() if is_one_rate else list(self.keep_rate),
            "drop_layers": list(self.drop_layers),
            "fuse_token": self.fuse_token,
        }

    def set_keep_rate(self, keep_rate: KeepRate) -> None:
        """Changes the share of tokens that is kept from now on.

        Args:
            keep_rate: One number, for the layers that shrink, or one for each layer.

        Raises:
            ValueError: If a rate is not above 0 and at most 1, or there are not as many as layers.
        """
        self.keep_rate = _rates(keep_rate, len(self.blocks), self.drop_layers)

    def forward_features(  # type: ignore[override]  # timm's takes masks
        self, x: Tensor, keep_rate: KeepRate | None = None
    ) -> Tensor:
        """`(B, in_chans, H, W)` to the normalised tokens that are left, prefix tokens first.

        Args:
            x: Images.
            keep_rate: In place of the model's own, as `set_keep_rate` takes it.
        """
        return self._run(x, keep_rate, set())[0]

    def forward(  # type: ignore[override]  # timm's takes masks
        self, x: Tensor, keep_rate: KeepRate | None = None
    ) -> Any:
        """`(B, in_chans, H, W)` to `(B, num_classes)`, or to both heads' in distilled training."""
        return self.forward_head(self.forward_features(x, keep_rate))

    def forward_intermediates(  # type: ignore[override]  # timm's can return prefix tokens
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of blocks, every token back in its place; zeros where none is left.

        Args:
            x: `(B, in_chans, H, W)`.
            indices: The blocks, 0-based; a number stands for the last so many, None for all.
            norm: Apply the final norm to them.
            stop_early: Without effect.
            output_fmt: "NCHW" for `(B, D, H, W)`, "NLC" for `(B, H * W, D)`.
            intermediates_only: Return the maps alone.

        Returns:
            The normalised tokens that are left, and the maps in ascending order of index.
        """
        del stop_early
        assert output_fmt in ("NCHW", "NLC"), f"unknown format {output_fmt!r}"
        numbers = chosen_indices(len(self.blocks), indices)
        features, taken = self._run(x, None, numbers)
        grid = self.patch_embed.dynamic_feat_size(x.shape[-2:])
        maps = []
        for tokens, positions in taken:
            tokens = self.norm(tokens) if norm else tokens
            patches = scatter(tokens[:, self.num_prefix_tokens :], positions, math.prod(grid))
            maps.append(patches.mT.unflatten(-1, grid) if output_fmt == "NCHW" else patches)
        return maps if intermediates_only else (features, maps)

    def kept_positions(self, x: Tensor) -> list[Tensor]:
        """The patches that are left after each layer.

        Args:
            x: `(B, in_chans, H, W)`.

        Returns:
            Per layer `(B, n)`: row-major patch indices, and -1 for a fused token.
        """
        every = set(range(len(self.blocks)))
        return [positions for _, positions in self._run(x, None, every)[1]]

    def _run(
        self, x: Tensor, keep_rate: KeepRate | None, numbers: set[int]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Normalised tokens; the outputs of the blocks in `numbers`, with their positions."""
        rates = self.keep_rate
        if keep_rate is not None:
            rates = _rates(keep_rate, len(self.blocks), self.drop_layers)
        x = self.norm_pre(self._pos_embed(self.patch_embed(x)))
        num_tokens = x.shape[1] - self.num_prefix_tokens
        positions = torch.arange(num_tokens, device=x.device).expand(x.shape[0], -1)
        taken = []
        for number, (block, rate) in enumerate(zip(self.blocks, rates, strict=True)):
            before = positions.shape[1]
            kept = num_kept(rate, before)
            # with one token less and one fused instead, nothing would be saved
            shrinks = kept + self.fuse_token < before
            arguments = (block, x, positions, kept, self.fuse_token) if shrinks else (x,)
            run: Any = forward_shrinking if shrinks else block
            if self.grad_checkpointing and self.training:
                out = checkpoint(run, *arguments, use_reentrant=False)
            else:
                out = run(*arguments)
            x, positions = out if shrinks else (out, positions)
            if number in numbers:
                taken.append((x, positions))
        return self.norm(x), taken


class EViTDistilled(EViT, VisionTransformerDistilled):
    """The same with a distillation token, which is never left behind, and a head for it."""


def prune_tokens(
    model: nn.Module,
    name: str,
    *,
    keep_rate: KeepRate = 0.7,
    drop_layers: Sequence[int] = (3, 6, 9),
    fuse_token: bool = True,
) -> None:
    """Makes a plain Vision Transformer of timm an EViT, in place; its weights stay as they are.

    Args:
        model: A model of timm's classes for ViT and DeiT, with a class token.
        name: Its name, for messages.
        keep_rate: As for `EViT`, and so are the others.
        drop_layers: Layers that shrink.
        fuse_token: Sum up what is left behind in one more token.

    Raises:
        UsageError: If tokens cannot be left out of the model, with the reason.
        ValueError: If the rate or a layer does not fit.
    """
    obstacle = _obstacle(model)
    if obstacle is not None:
        raise UsageError(
            f"{name}: tokens cannot be left out of it, because {obstacle}. Use a plain ViT or DeiT "
            "with a class token, such as deit_tiny_patch16_224 or vit_tiny_patch4_32, or leave out "
            "pruning (model.args.keep_rate, drop_layers, fuse_token)"
        )
    pruned: Any = model
    is_distilled = isinstance(model, VisionTransformerDistilled)
    pruned.__class__ = EViTDistilled if is_distilled else EViT
    pruned.set_pruning(keep_rate, drop_layers, fuse_token)


def _obstacle(model: Any) -> str | None:
    """The reason why tokens cannot be left out of a model, None if they can."""
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return f"the layers of {type(model).__name__} may need every patch in its place"
    if model.cls_token is None:
        return "it has no class token, whose attention ranks the patches"
    if model.global_pool != "token" or model.attn_pool is not None:
        return (
            "it does not classify by its class token, whose attention ranks the patches; "
            "model.args.global_pool=token changes that"
        )
    if not isinstance(model.patch_drop, nn.Identity):
        return "it drops patches at random; leave out patch_drop_rate"
    for block in model.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            return "its blocks are not timm's plain ones"
    return None


def num_kept(rate: float, num_tokens: int) -> int:
    """`ceil(rate * num_tokens)`, not exposed to rounding: 0.55 of 100 is 55."""
    return math.ceil(round(rate * num_tokens, 9))


def scatter(tokens: Tensor, positions: Tensor, num_patches: int) -> Tensor:
    """Tokens `(B, n, D)` in their places: `(B, num_patches, D)`, zeros where none is left.

    Args:
        tokens: Without prefix tokens.
        positions: `(B, n)`; fused tokens, which have no place, are left out.
        num_patches: The number of patches of the whole image.
    """
    places = torch.where(positions == FUSED, num_patches, positions)
    places = places.unsqueeze(-1).expand_as(tokens)
    image = tokens.new_zeros(tokens.shape[0], num_patches + 1, tokens.shape[-1])
    return image.scatter(1, places, tokens)[:, :num_patches]


def _rates(keep_rate: KeepRate, depth: int, drop_layers: Sequence[int]) -> tuple[float, ...]:
    """One keep rate for each layer."""
    if isinstance(keep_rate, int | float):
        for layer in drop_layers:
            if not 0 <= layer < depth:
                raise ValueError(
                    f"drop_layers: there is no layer {layer}, only 0 to {depth - 1} "
                    "(in a recipe: pruning.layers)"
                )
        rates = [keep_rate if layer in drop_layers else 1.0 for layer in range(depth)]
    else:
        rates = [float(rate) for rate in keep_rate]
        if len(rates) != depth:
            raise ValueError(f"keep_rate: {len(rates)} rates for {depth} layers")
    for rate in rates:
        if not 0 < rate <= 1:
            raise ValueError(f"keep_rate: {rate} is not above 0 and at most 1")
    return tuple(rates)


_WIDTHS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


def _cfg(is_distilled: bool) -> dict[str, Any]:
    return {
        "input_size": (3, 224, 224),
        "min_input_size": (3, 64, 64),
        "fixed_input_size": True,
        "crop_pct": 0.9,
        "first_conv": "patch_embed.proj",
        "classifier": ("head", "head_dist") if is_distilled else "head",
    }


default_cfgs = generate_default_cfgs(
    {
        f"evit_deit_{size}{form}_patch16_224": _cfg(bool(form))
        for size in _WIDTHS
        for form in ("", "_distilled")
    }
)


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    embed_dim, num_heads = _WIDTHS[name.split("_")[2]]
    shape = {"patch_size": 16, "embed_dim": embed_dim, "depth": 12, "num_heads": num_heads}
    model: nn.Module = build_model_with_cfg(
        EViTDistilled if "distilled" in name else EViT,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **(shape | kwargs),
    )
    return model


@register_model
def evit_deit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-Ti, 0.821 GMACs at keep rate 0.7, with fused token, instead of 1.254."""
    return _create("evit_deit_tiny_patch16_224", pretrained, kwargs)


@register_model
def evit_deit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-S, 3.029 GMACs at keep rate 0.7, with fused token, instead of 4.599."""
    return _create("evit_deit_small_patch16_224", pretrained, kwargs)


@register_model
def evit_deit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DeiT-B, 11.610 GMACs at keep rate 0.7, with fused token, instead of 17.564."""
    return _create("evit_deit_base_patch16_224", pretrained, kwargs)


@register_model
def evit_deit_tiny_distilled_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Distilled DeiT-Ti."""
    return _create("evit_deit_tiny_distilled_patch16_224", pretrained, kwargs)


@register_model
def evit_deit_small_distilled_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Distilled DeiT-S."""
    return _create("evit_deit_small_distilled_patch16_224", pretrained, kwargs)


@register_model
def evit_deit_base_distilled_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Distilled DeiT-B."""
    return _create("evit_deit_base_distilled_patch16_224", pretrained, kwargs)
