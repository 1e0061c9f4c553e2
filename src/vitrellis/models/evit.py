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

from collections.abc import Iterator, Sequence
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

from vitrellis.models.support.plain_attention import (
    attention_output,
    dropout_of,
    queries_keys_values,
)
from vitrellis.models.support.token_reduction import (
    GONE,
    KeepRate,
    LayerTokens,
    TokenReduction,
    num_kept,
)
from vitrellis.models.support.variations import DEIT_CLASS_TOKEN_STD

__all__ = ["EViT", "EViTDistilled", "checkpoint_filter_fn", "default_cfgs"]

FUSED = -1
"""The position of a token that stands for several patches."""


def attend_and_rank(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """The attention of timm, and what the class token attends to.

    Args:
        attention: The layer.
        x: `(B, N, D)`, the class token first.

    Returns:
        The layer's output, `(B, N, D)`, and the class token's attention, `(B, N)`: after the
        softmax over all tokens, averaged over heads.
    """
    q, k, v = queries_keys_values(attention, x)
    attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_of(attention))
    cls_attention = (q[:, :, :1] @ k.mT * attention.scale).softmax(dim=-1)  # (B, h, 1, N)
    out = attention_output(attention, x, attended)
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
    attention: Any = block.attn
    attended, cls_attention = attend_and_rank(attention, block.norm1(x))
    x = x + block.drop_path1(block.ls1(attended))
    x, positions = keep_attentive(x, cls_attention, positions, kept, fuse)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), positions


def keep_attentive(
    x: Tensor, cls_attention: Tensor, positions: Tensor, kept: int, fuse: bool
) -> tuple[Tensor, Tensor]:
    """Keeps the tokens that the class token attends to most.

    Args:
        x: `(B, P + n, D)`: prefix tokens, then n others.
        cls_attention: `(B, P + n)`, the class token's attention to all of them.
        positions: `(B, n)`, where the others were in the image.
        kept: The number of the n tokens that stay.
        fuse: Add one token that is the sum of the others, weighted by attention.

    Returns:
        `(B, P + kept, D)` or one more, in falling order of attention behind the prefix, and their
        positions.
    """
    num_prefix = x.shape[1] - positions.shape[1]
    prefix, tokens = x[:, :num_prefix], x[:, num_prefix:]
    cls_attention = cls_attention[:, num_prefix:]
    count = cls_attention.shape[1] if fuse else kept
    order = cls_attention.topk(count, dim=1).indices  # sorted; ONNX has no argsort
    tokens = tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    positions = positions.gather(1, order)[:, :kept]
    parts = [prefix, tokens[:, :kept]]
    if fuse:
        weights = cls_attention.gather(1, order)[:, kept:].unsqueeze(-1)  # (B, n - kept, 1)
        parts.append((weights * tokens[:, kept:]).sum(dim=1, keepdim=True))
        positions = F.pad(positions, (0, 1), value=FUSED)
    return torch.cat(parts, dim=1), positions


class EViT(TokenReduction, VisionTransformer):  # type: ignore[misc]  # timm's takes masks
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

    def kept_positions(self, x: Tensor) -> list[Tensor]:
        """The patches that are left after each layer.

        Args:
            x: `(B, in_chans, H, W)`.

        Returns:
            Per layer `(B, n)`: row-major patch indices in falling order of attention, and -1 for a
            fused token.
        """
        return [positions for _, positions in self._layers(self._embed(x), self.keep_rate)]

    def reduce(
        self, x: Tensor, rates: Sequence[float], numbers: set[int]
    ) -> tuple[Tensor, list[LayerTokens], tuple[int, int]]:
        """Runs all layers; the base class says what goes in and comes out."""
        tokens = self._embed(x)
        num_patches = tokens.shape[1] - self.num_prefix_tokens
        taken = []
        for number, (left, positions) in enumerate(self._layers(tokens, rates)):
            tokens = left
            if number in numbers:
                taken.append(LayerTokens(tokens, token_at(positions, num_patches)))
        return self.norm(tokens), taken, self.patch_embed.dynamic_feat_size(x.shape[-2:])

    def _embed(self, x: Tensor) -> Tensor:
        """`(B, in_chans, H, W)` to the tokens that the first block takes."""
        embedded: Tensor = self.norm_pre(self._pos_embed(self.patch_embed(x)))
        return embedded

    def _layers(self, x: Tensor, rates: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
        """The tokens after each block, and the positions of those that are no prefix."""
        num_patches = x.shape[1] - self.num_prefix_tokens
        positions = torch.arange(num_patches, device=x.device).expand(x.shape[0], -1)
        for block, rate in zip(self.blocks, rates, strict=True):
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
            yield x, positions


class EViTDistilled(EViT, VisionTransformerDistilled):  # type: ignore[misc]  # the same
    """The same with a distillation token, which is never left behind, and a head for it."""


def token_at(positions: Tensor, num_patches: int) -> Tensor:
    """The token of each patch, `(B, num_patches)`, or `GONE`, from the positions of tokens.

    Args:
        positions: `(B, n)`, the patch of each token; `FUSED` for one that has no place.
        num_patches: The number of patches of the whole image.
    """
    batch, num_tokens = positions.shape
    places = torch.where(positions == FUSED, num_patches, positions)
    numbers = torch.arange(num_tokens, device=positions.device).expand(batch, -1)
    token = positions.new_full((batch, num_patches + 1), GONE)
    return token.scatter(1, places, numbers)[:, :num_patches]


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
