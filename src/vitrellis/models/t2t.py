"""T2T-ViT: neighbouring tokens are merged step by step before a slim Vision Transformer begins.

Paper: Yuan et al., "Tokens-to-Token ViT: training Vision Transformers from scratch on ImageNet",
ICCV 2021, https://arxiv.org/abs/2101.11986, in the form with Performers (Choromanski et al., 2021).
Published form that the numbers follow: github.com/lkhl/tiny-transformers.

How we differ from it: images of any size, also not square; the grid is that of the unfolded windows
(it floored the image size by the strides, and failed at 100 or 200 pixels).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
from timm.layers import Mlp, calculate_drop_path_rates, to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models.support.positions import resample_tokens
from vitrellis.models.support.timm_contract import ClassTokenClassifier, Grid

KERNELS, STRIDES, PADDINGS = (7, 3, 3), (4, 2, 2), (2, 1, 1)
EPS = 1e-6


class PerformerAttention(nn.Module):
    """Single-head attention in linear time: positive random features stand for the softmax.

    The values are added to the output; there is no other residual connection, because the width
    changes.

    Args:
        in_dim: Width of the tokens that come in.
        dim: Width of those that go out.
        proj_drop: Dropout of the projected output.
    """

    def __init__(self, in_dim: int, dim: int, proj_drop: float) -> None:
        super().__init__()
        self.dim = dim
        self.num_features = dim // 2
        self.kqv = nn.Linear(in_dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        # fixed directions, never trained
        self.w = nn.Parameter(torch.empty(self.num_features, dim), requires_grad=False)
        self.init_directions()

    def init_directions(self) -> None:
        """Orthogonal rows of length sqrt(m)."""
        nn.init.orthogonal_(self.w)
        with torch.no_grad():
            self.w.mul_(math.sqrt(self.num_features))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, in_dim)` to `(B, N, dim)`."""
        k, q, v = self.kqv(x).split(self.dim, dim=-1)  # each (B, N, dim)
        # exponentials and the small constant below need float32 whatever the rest runs in
        device = x.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            k_features, q_features = self.features(k.float()), self.features(q.float())
            together = k_features.mT @ v.float()  # (B, m, dim)
            total = q_features @ k_features.sum(dim=1).unsqueeze(-1)  # (B, N, 1)
            mixed = (q_features @ together) / (total + 1e-8)
        return v + self.proj_drop(self.proj(mixed.to(v.dtype)))

    def features(self, x: Tensor) -> Tensor:
        """`exp(w . x - |x|^2 / 2) / sqrt(m)`: `(B, N, dim)` to `(B, N, m)` (Performer, lemma 1)."""
        half_square = x.square().sum(dim=-1, keepdim=True) / 2
        return (x @ self.w.float().mT - half_square).exp() / math.sqrt(self.num_features)


class Performer(nn.Module):
    """Attention to another width, then a feed-forward with a residual connection."""

    def __init__(self, in_dim: int, dim: int, proj_drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_dim, eps=EPS)
        self.attn = PerformerAttention(in_dim, dim, proj_drop)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, dim, drop=proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, in_dim)` to `(B, N, dim)`."""
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokensToToken(nn.Module):
    """Three soft splits into overlapping windows, with a Performer after the first and the second.

    Args:
        in_chans: Image channels.
        token_dim: Width between the splits.
        embed_dim: D.
        proj_drop: Dropout in the Performers.
    """

    def __init__(self, in_chans: int, token_dim: int, embed_dim: int, proj_drop: float) -> None:
        super().__init__()
        widths = [in_chans * KERNELS[0] ** 2, token_dim * KERNELS[1] ** 2]
        self.performers = nn.ModuleList(Performer(w, token_dim, proj_drop) for w in widths)
        self.proj = nn.Linear(token_dim * KERNELS[2] ** 2, embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """`(B, in_chans, H, W)` to tokens `(B, N, D)` and their grid."""
        grids = grids_of((x.shape[-2], x.shape[-1]))
        for number, (kernel, stride, padding) in enumerate(
            zip(KERNELS, STRIDES, PADDINGS, strict=True)
        ):
            tokens = F.unfold(x, kernel, padding=padding, stride=stride).mT
            if number < len(self.performers):
                x = self.performers[number](tokens).mT.unflatten(-1, grids[number])
        return self.proj(tokens), grids[-1]


def grids_of(img_size: Grid) -> list[Grid]:
    """Tokens down and across after each soft split of an image of `(H, W)` pixels."""
    grids = []
    height, width = img_size
    for kernel, stride, padding in zip(KERNELS, STRIDES, PADDINGS, strict=True):
        height = (height + 2 * padding - kernel) // stride + 1
        width = (width + 2 * padding - kernel) // stride + 1
        grids.append((height, width))
    return grids


class T2TViT(ClassTokenClassifier):
    """Tokens-to-token embedding, a fixed sinusoid position table, plain transformer blocks.

    Args:
        img_size: Pixels that the position table is made for; for others it is interpolated.
        in_chans: Image channels.
        num_classes: 0 for none.
        token_dim: Width between the soft splits.
        embed_dim: D.
        depth: Number of blocks.
        num_heads: The number of heads of every block.
        mlp_ratio: Hidden channels of every block's feed-forward, in multiples of D.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position table.
        proj_drop_rate: Dropout of attention and feed-forward outputs.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        token_dim: int = 64,
        embed_dim: int = 256,
        depth: int = 7,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_chans, embed_dim)
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": math.prod(STRIDES), "module": f"blocks.{number}"}
            for number in range(depth)
        ]
        self.patch_embed = TokensToToken(in_chans, token_dim, embed_dim, proj_drop_rate)
        self.grid = grids_of(to_2tuple(img_size))[-1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(
            sinusoid_table(1 + self.grid[0] * self.grid[1], embed_dim), requires_grad=False
        )
        self.pos_drop = nn.Dropout(pos_drop_rate)
        rates = cast(list[float], calculate_drop_path_rates(drop_path_rate, depth))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias=False,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
                norm_layer=_Norm,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.new_classifier()
        self.init_weights()

    def init_weights(self) -> None:
        """Normal 0.02 (not truncated, as published) for the class token and linear layers."""
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def block_outputs(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """`(B, in_chans, H, W)` to tokens `(B, 1 + N, D)` after each block, and their grid."""
        patches, grid = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], dim=1)
        position: Tensor = self.pos_embed
        if grid != self.grid:
            position = resample_tokens(position, self.grid, grid, num_prefix=1)
        tokens = self.pos_drop(tokens + position)
        for block in self.blocks:
            tokens = self.run_block(block, tokens)
            yield tokens, grid

    def no_weight_decay(self) -> set[str]:
        """The class token. The position table is not trained."""
        return {"cls_token", "pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters from input to output, for layer-wise learning rates."""
        del coarse
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


class _Norm(nn.LayerNorm):
    """A layer norm of this model's eps, to be handed to timm's `Block`."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, eps=EPS, **kwargs)


def sinusoid_table(num_positions: int, dim: int) -> Tensor:
    """`(1, num_positions, dim)`: sines in even channels, cosines in odd ones.

    Wavelengths rise from 2 pi by powers of 10000 (Vaswani et al., 2017, section 3.5).
    """
    position = torch.arange(num_positions, dtype=torch.float64).unsqueeze(1)
    channel = torch.arange(dim, dtype=torch.float64)
    angle = position / 10000 ** (2 * (channel // 2) / dim)
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    return table.float().unsqueeze(0)


default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 224, 224),
            "min_input_size": (3, 32, 32),
            "fixed_input_size": True,
            "crop_pct": 0.9,
            # its first linear layer holds patches, which another number of channels cannot enter
            "first_conv": None,
            "classifier": "head",
        }
        for name in ("t2t_vit_7", "t2t_vit_14")
    }
)


def _create(name: str, shape: dict[str, Any], pretrained: bool, kwargs: dict[str, Any]) -> T2TViT:
    model = build_model_with_cfg(T2TViT, name, pretrained, **(shape | kwargs))
    assert isinstance(model, T2TViT)
    return model


@register_model
def t2t_vit_7(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-7, 4,024,394 trained parameters at 100 classes, 4,078,922 with what is fixed."""
    return _create("t2t_vit_7", {}, pretrained, kwargs)


@register_model
def t2t_vit_14(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-14, 21.5 million parameters at 1000 classes (paper, table 2)."""
    shape = {"embed_dim": 384, "depth": 14, "num_heads": 6, "mlp_ratio": 3.0}
    return _create("t2t_vit_14", shape, pretrained, kwargs)
