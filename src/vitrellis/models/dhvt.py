"""DHVT: a hybrid Vision Transformer that learns from little, because convolutions help it see.

Paper: Lu et al., "Bridging the gap between Vision Transformers and convolutional neural networks on
small datasets", NeurIPS 2022, https://arxiv.org/abs/2210.05958.
Original code: github.com/ArieSeirack/DHVT.

How we differ from it: any number of channels (its affine had three), images that are not square
(it folded tokens to a square of the same count), a patch of 8 besides 2, 4 and 16, and drop rates
that take effect. The micro sizes, which are ours, start and decay by a rule of their own
(`as_published=False`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from timm.layers import DropPath, calculate_drop_path_rates, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models.support.timm_contract import ClassTokenClassifier, Grid


class Affine(nn.Module):
    """A learned scale and shift per channel, starting as the identity.

    Args:
        num_channels: C.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, num_channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, num_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same."""
        return x * self.alpha + self.beta


class SOPE(nn.Module):
    """Sequential overlapping patch embedding: 3x3 stride-2 convolutions between two affines.

    The receptive fields overlap and the zero padding shows where the border is: this carries
    position, and there is no position embedding on the patches. Sides that the patch does not
    divide are rounded up.

    Args:
        patch_size: 2, 4, 8 or 16, by so many halvings.
        in_chans: Image channels.
        embed_dim: D.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        if patch_size not in (2, 4, 8, 16):
            raise ValueError(f"patch_size: {patch_size} is not 2, 4, 8 or 16")
        halvings = patch_size.bit_length() - 1
        widths = [in_chans, *(embed_dim // 2**k for k in reversed(range(halvings)))]
        layers: list[nn.Module] = []
        for width, out_width in itertools.pairwise(widths):
            conv = nn.Conv2d(width, out_width, 3, 2, 1, bias=False)
            layers += [nn.Sequential(conv, nn.BatchNorm2d(out_width)), nn.GELU()]
        if halvings > 1:
            layers.pop()  # between convolutions only; after a single one, too, as published
        self.pre_affine = Affine(in_chans)
        self.proj = nn.Sequential(*layers)
        self.post_affine = Affine(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_chans, H, W)` to `(B, D, H / patch, W / patch)`, rounded up."""
        return self.post_affine(self.proj(self.pre_affine(x)))


class HeadInteractedAttention(nn.Module):
    """HI-MHSA: every head sends a token of its own into the attention, so that heads interact.

    Args:
        dim: D.
        num_heads: h; each works on d = D / h channels.
        qkv_bias: Give the projection to queries, keys and values a bias.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads do not divide width {dim}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.ht_proj = nn.Linear(self.head_dim, dim)
        self.ht_norm = nn.LayerNorm(self.head_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, num_heads, dim))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, D)` with the class token first, to the same."""
        return self.output(x, self.attend(*self.queries_keys_values(x)))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(B, N, D)` to `(B, h, N + h, d)` each, head tokens last."""
        x = torch.cat([x, self.head_tokens(x)], dim=1)  # (B, N + h, D)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The weighted values, `(B, h, N + h, d)`."""
        dropout = self.attn_drop if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

    def output(self, x: Tensor, attended: Tensor) -> Tensor:
        """Weighted values `(B, h, N + h, d)` to the output `(B, N, D)` for the input `x`."""
        batch, num_tokens, dim = x.shape
        out = self.proj(attended.transpose(1, 2).reshape(batch, -1, dim))  # (B, N + h, D)
        tokens, head_tokens = out.split([num_tokens, self.num_heads], dim=1)
        class_token = tokens[:, :1] + head_tokens.mean(dim=1, keepdim=True)  # (B, 1, D)
        return self.proj_drop(torch.cat([class_token, tokens[:, 1:]], dim=1))

    def head_tokens(self, x: Tensor) -> Tensor:
        """`(B, N, D)` to `(B, h, D)`: each head's average over tokens, projected to all heads."""
        heads = x.mean(dim=1).unflatten(-1, (self.num_heads, self.head_dim))  # (B, h, d)
        per_head = self.ht_proj(heads)  # (B, h, D)
        per_head = per_head.unflatten(-1, (self.num_heads, self.head_dim))  # (B, h, h, d)
        return F.gelu(self.ht_norm(per_head)).flatten(-2) + self.pos_embed


class DAFF(nn.Module):
    """Dynamic aggregation feed-forward: a depthwise convolution between two pointwise ones.

    The class token takes no part in the convolutions. It is rescaled, channel by channel, by what
    a squeeze and excitation of the averaged result says.

    Args:
        dim: D.
        hidden: Channels of the depthwise convolution.
        drop: Dropout of the output.
    """

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, dim, 1)
        self.bn3 = nn.BatchNorm2d(dim)
        self.compress = nn.Linear(dim, dim // 4)
        self.excitation = nn.Linear(dim // 4, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """`(B, 1 + H * W, D)` to the same, for the grid `(H, W)`."""
        class_token, patches = x[:, :1], x[:, 1:]
        y = patches.transpose(1, 2).unflatten(-1, grid)  # (B, D, H, W)
        y = F.gelu(self.bn1(self.conv1(y)))
        y = y + F.gelu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y)).flatten(2).transpose(1, 2)  # (B, H * W, D)
        return self.with_class_token(class_token, y)

    def with_class_token(self, class_token: Tensor, y: Tensor) -> Tensor:
        """The rescaled class token `(B, 1, D)`, and behind it the other tokens `(B, n, D)`."""
        excited = self.excitation(F.gelu(self.compress(y.mean(dim=1, keepdim=True))))  # (B, 1, D)
        return self.drop(torch.cat([class_token * excited, y], dim=1))


class DHVTBlock(nn.Module):
    """Attention and feed-forward, each after a norm and beside a residual connection.

    Args:
        dim: D.
        num_heads: The number of attention heads.
        mlp_ratio: Hidden channels of the feed-forward, in multiples of D.
        qkv_bias: Give the projection to queries, keys and values a bias.
        drop: Dropout of both outputs.
        attn_drop: Dropout of the attention weights.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = HeadInteractedAttention(dim, num_heads, qkv_bias, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = DAFF(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """`(B, 1 + H * W, D)` to the same."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x), grid))


class DHVT(ClassTokenClassifier):
    """Overlapping patch embedding, blocks of head-interacted attention and DAFF, a class token.

    Args:
        img_size: Accepted as by other transformers, without effect: any size works.
        patch_size: 2, 4, 8 or 16.
        in_chans: Image channels.
        num_classes: 0 for none.
        embed_dim: D.
        depth: Number of blocks.
        num_heads: The number of heads of every block. The number of parameters depends on it.
        mlp_ratio: Hidden channels of every block's feed-forward, in multiples of D.
        qkv_bias: Give every block's projection to queries, keys and values a bias.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout of attention and feed-forward outputs.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        as_published: Convolutions start as torch's (uniform over the inputs, biases too), and all
            but the class token, biases and norms decays, affine scales and head position embeddings
            too. Otherwise convolutions start normal over the outputs, with biases 0, and neither
            of the two decays to 0.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 32,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        as_published: bool = True,
    ) -> None:
        del img_size
        super().__init__(num_classes, in_chans, embed_dim)
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": patch_size, "module": f"blocks.{number}"}
            for number in range(depth)
        ]
        self.patch_embed = SOPE(patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        rates = cast(list[float], calculate_drop_path_rates(drop_path_rate, depth))
        self.blocks = nn.ModuleList(
            DHVTBlock(
                embed_dim, num_heads, mlp_ratio, qkv_bias, proj_drop_rate, attn_drop_rate, rate
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.new_classifier()
        self.as_published = as_published
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal 0.02 for tokens and linear layers; convolutions by `as_published`."""
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, HeadInteractedAttention):
                trunc_normal_(module.pos_embed, std=0.02)
            elif isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d) and not self.as_published:
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def block_outputs(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """`(B, in_chans, H, W)` to tokens `(B, 1 + N, D)` after each block, and their grid."""
        tokens, grid = self.embed(x)
        for block in self.blocks:
            tokens = self.run_block(block, tokens, grid)
            yield tokens, grid

    def embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """`(B, in_chans, H, W)` to the first block's tokens `(B, 1 + N, D)`, and their grid."""
        maps = self.patch_embed(x)
        patches = maps.flatten(2).transpose(1, 2)  # (B, N, D)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], dim=1)
        return tokens, (maps.shape[-2], maps.shape[-1])

    def no_weight_decay(self) -> set[str]:
        """The class token; unless as published, head position embeddings and affines, too."""
        names = {"cls_token"}
        if not self.as_published:
            named = [name for name, _ in self.named_parameters()]
            names |= {name for name in named if name.endswith("attn.pos_embed")}
            names |= {name for name in named if "_affine." in name}
        return names

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters from input to output, for layer-wise learning rates."""
        del coarse
        return {
            "stem": r"^cls_token|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


def _cfg(size: int, num_classes: int, patch_size: int) -> dict[str, Any]:
    return {
        "num_classes": num_classes,
        "input_size": (3, size, size),
        "min_input_size": (3, 2 * patch_size, 2 * patch_size),
        "crop_pct": 1.0 if size < 224 else 0.875,
        "first_conv": "patch_embed.proj.0.0",
        "classifier": "head",
    }


default_cfgs = generate_default_cfgs(
    {
        "dhvt_micro_patch4": _cfg(32, 10, 4),
        "dhvt_micro_patch8": _cfg(96, 10, 8),
        "dhvt_micro_patch16": _cfg(128, 10, 16),
        "dhvt_tiny_cifar_patch4": _cfg(32, 100, 4),
        "dhvt_small_cifar_patch4": _cfg(32, 100, 4),
        "dhvt_tiny_cifar_patch2": _cfg(32, 100, 2),
        "dhvt_small_cifar_patch2": _cfg(32, 100, 2),
        "dhvt_tiny_domain_patch16": _cfg(224, 345, 16),
        "dhvt_small_domain_patch16": _cfg(224, 345, 16),
        "dhvt_tiny_imagenet_patch16": _cfg(224, 1000, 16),
        "dhvt_small_imagenet_patch16": _cfg(224, 1000, 16),
    }
)


_MICRO = {"depth": 4, "mlp_ratio": 2.0, "as_published": False}


def _create(name: str, pretrained: bool, shape: dict[str, Any], kwargs: dict[str, Any]) -> DHVT:
    model = build_model_with_cfg(DHVT, name, pretrained, **(shape | kwargs))
    assert isinstance(model, DHVT)
    return model


def _shape(patch_size: int, embed_dim: int, num_heads: int, img_size: int) -> dict[str, Any]:
    return {
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "img_size": img_size,
    }


@register_model
def dhvt_micro_patch4(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """Ours, for 28 to 64 pixels and a laptop: width 96, depth 4, three heads, MLP ratio 2."""
    shape = _shape(4, 96, 3, 32) | _MICRO
    return _create("dhvt_micro_patch4", pretrained, shape, kwargs)


@register_model
def dhvt_micro_patch8(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """Ours, for 64 to 128 pixels and a laptop: as the one above, with coarser patches."""
    shape = _shape(8, 96, 3, 96) | {"depth": 4, "mlp_ratio": 2.0}
    return _create("dhvt_micro_patch8", pretrained, shape, kwargs)


@register_model
def dhvt_micro_patch16(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """Ours, for 96 to 160 pixels and a laptop: as the one above, with coarser patches."""
    shape = _shape(16, 96, 3, 128) | _MICRO
    return _create("dhvt_micro_patch16", pretrained, shape, kwargs)


@register_model
def dhvt_tiny_cifar_patch4(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-T/4 of the paper, 6,008,650 parameters at 100 classes."""
    return _create("dhvt_tiny_cifar_patch4", pretrained, _shape(4, 192, 4, 32), kwargs)


@register_model
def dhvt_small_cifar_patch4(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-S/4 of the paper, 23,425,450 parameters at 100 classes."""
    return _create("dhvt_small_cifar_patch4", pretrained, _shape(4, 384, 8, 32), kwargs)


@register_model
def dhvt_tiny_cifar_patch2(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-T/2 of the paper, 5,845,162 parameters at 100 classes."""
    return _create("dhvt_tiny_cifar_patch2", pretrained, _shape(2, 192, 4, 32), kwargs)


@register_model
def dhvt_small_cifar_patch2(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-S/2 of the paper, 22,766,698 parameters at 100 classes."""
    return _create("dhvt_small_cifar_patch2", pretrained, _shape(2, 384, 8, 32), kwargs)


@register_model
def dhvt_tiny_domain_patch16(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-T for DomainNet, 6,105,975 parameters at 345 classes."""
    return _create("dhvt_tiny_domain_patch16", pretrained, _shape(16, 192, 4, 224), kwargs)


@register_model
def dhvt_small_domain_patch16(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-S for DomainNet, 23,788,431 parameters at 345 classes."""
    return _create("dhvt_small_domain_patch16", pretrained, _shape(16, 384, 6, 224), kwargs)


@register_model
def dhvt_tiny_imagenet_patch16(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-T for ImageNet, 6,267,334 parameters at 1000 classes."""
    return _create("dhvt_tiny_imagenet_patch16", pretrained, _shape(16, 192, 3, 224), kwargs)


@register_model
def dhvt_small_imagenet_patch16(pretrained: bool = False, **kwargs: Any) -> DHVT:
    """DHVT-S for ImageNet, 24,040,606 parameters at 1000 classes."""
    return _create("dhvt_small_imagenet_patch16", pretrained, _shape(16, 384, 6, 224), kwargs)
