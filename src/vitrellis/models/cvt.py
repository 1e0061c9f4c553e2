"""CvT: three stages of convolutional token embedding and convolutional projections to q, k and v.

Paper: Wu et al., "CvT: introducing convolutions to Vision Transformers", ICCV 2021,
https://arxiv.org/abs/2103.15808.
Published form that the numbers follow: github.com/lkhl/tiny-transformers.

Kept as published: attention is scaled by the whole width, `dim ** -0.5`, not by the head's. How we
differ: a batch of one gives logits `(1, K)`, as any other (it lost its first dimension).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from timm.layers import DropPath, Mlp, QuickGELU, calculate_drop_path_rates, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models.support.timm_contract import ClassTokenClassifier, Grid


class ConvEmbedding(nn.Module):
    """Overlapping patches: a strided convolution and a norm over channels.

    Args:
        kernel: Sides of a patch, in pixels or in tokens of the stage before.
        stride: Between patches.
        padding: Zeros around the image.
        in_chans: C.
        dim: D.
    """

    def __init__(self, kernel: int, stride: int, padding: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel, stride, padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """`(B, C, H, W)` to tokens `(B, N, D)` and their grid."""
        x = self.proj(x)
        return self.norm(x.flatten(2).mT), (x.shape[-2], x.shape[-1])


class ConvProjection(nn.Module):
    """A depthwise 3x3 convolution and a batch norm, before a linear projection.

    Args:
        dim: D.
        stride: 2 leaves a quarter of the tokens.
    """

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """A map `(B, D, H, W)` to tokens `(B, N, D)`."""
        return self.bn(self.conv(x)).flatten(2).mT


class ConvAttention(nn.Module):
    """Attention whose queries, keys and values come from convolutions; keys and values of stride 2.

    Args:
        dim: D.
        num_heads: h; each works on d = D / h channels.
        num_prefix_tokens: Class tokens, which skip the convolutions.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
    """

    def __init__(
        self, dim: int, num_heads: int, num_prefix_tokens: int, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_prefix_tokens = num_prefix_tokens
        self.scale = dim**-0.5  # the whole width, as published
        self.attn_drop = attn_drop
        self.conv_proj_q = ConvProjection(dim, 1)
        self.conv_proj_k = ConvProjection(dim, 2)
        self.conv_proj_v = ConvProjection(dim, 2)
        self.proj_q = nn.Linear(dim, dim)
        self.proj_k = nn.Linear(dim, dim)
        self.proj_v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """`(B, prefix + H * W, D)` to the same, for the grid `(H, W)`."""
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        maps = patches.mT.unflatten(-1, grid)  # (B, D, H, W)
        q = self._heads(self.proj_q(torch.cat([prefix, self.conv_proj_q(maps)], dim=1)))
        k = self._heads(self.proj_k(torch.cat([prefix, self.conv_proj_k(maps)], dim=1)))
        v = self._heads(self.proj_v(torch.cat([prefix, self.conv_proj_v(maps)], dim=1)))
        dropout = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(-2)))

    def _heads(self, x: Tensor) -> Tensor:
        """`(B, N, D)` to `(B, h, N, d)`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CvTBlock(nn.Module):
    """Attention and feed-forward, each after a norm and beside a residual connection."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        num_prefix_tokens: int,
        proj_drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ConvAttention(dim, num_heads, num_prefix_tokens, attn_drop, proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=QuickGELU, drop=proj_drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """`(B, prefix + H * W, D)` to the same."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CvTStage(nn.Module):
    """An embedding, a class token if it is the last stage, and blocks."""

    def __init__(
        self,
        patch_embed: ConvEmbedding,
        blocks: Sequence[CvTBlock],
        dim: int,
        has_class_token: bool,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if has_class_token else None
        self.blocks = nn.ModuleList(blocks)


class CvT(ClassTokenClassifier):
    """Three stages without position embeddings; a class token joins in the last.

    Args:
        img_size: Accepted as by other transformers, without effect: any size works.
        in_chans: Image channels.
        num_classes: 0 for none.
        embed_dims: Width of each stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        mlp_ratio: Hidden channels of every block's feed-forward, in multiples of D.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout of attention and feed-forward outputs.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 within the last
            stage; the others have none, as published.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 192, 384),
        depths: Sequence[int] = (1, 2, 10),
        num_heads: Sequence[int] = (1, 3, 6),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        del img_size
        super().__init__(num_classes, in_chans, embed_dims[-1])
        stages = []
        width = in_chans
        for number, (dim, depth, heads) in enumerate(
            zip(embed_dims, depths, num_heads, strict=True)
        ):
            is_last = number == len(depths) - 1
            rates = cast(
                list[float], calculate_drop_path_rates(drop_path_rate if is_last else 0.0, depth)
            )
            kernel, stride, padding = (3, 2, 1) if number else (7, 4, 2)
            embedding = ConvEmbedding(kernel, stride, padding, width, dim)
            blocks = [
                CvTBlock(dim, heads, mlp_ratio, int(is_last), proj_drop_rate, attn_drop_rate, rate)
                for rate in rates
            ]
            stages.append(CvTStage(embedding, blocks, dim, is_last))
            self.feature_info += [
                {
                    "num_chs": dim,
                    "reduction": 4 * 2**number,
                    "module": f"stages.{number}.blocks.{k}",
                }
                for k in range(depth)
            ]
            width = dim
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.new_classifier()
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal 0.02 for the class token and linear layers; convolutions as torch."""
        for module in self.modules():
            if isinstance(module, CvTStage) and module.cls_token is not None:
                trunc_normal_(module.cls_token, std=0.02)
            elif isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module is not self.head:  # its bias stays as torch's, as published
                    nn.init.zeros_(module.bias)

    def block_outputs(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """`(B, in_chans, H, W)` to each block's tokens `(B, prefix + N, D)`, and their grid."""
        for stage in self.stages:
            assert isinstance(stage, CvTStage)
            tokens, grid = stage.patch_embed(x)
            if stage.cls_token is not None:
                tokens = torch.cat([stage.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
            for block in stage.blocks:
                tokens = self.run_block(block, tokens, grid)
                yield tokens, grid
            x = self.feature_map(tokens, grid)

    def no_weight_decay(self) -> set[str]:
        """The class token."""
        return {f"stages.{len(self.stages) - 1}.cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters from input to output, for layer-wise learning rates."""
        stages = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.blocks\.(\d+)"
        return {
            "stem": r"^stages\.0\.patch_embed",
            "blocks": [
                (stages, None),
                (r"^stages\.(\d+)\.patch_embed", (0,)),
                (r"^stages\.\d+\.cls_token|^norm", (99999,)),
            ],
        }


default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 224, 224),
            "min_input_size": (3, 32, 32),
            "first_conv": "stages.0.patch_embed.proj",
            "classifier": "head",
        }
        for name in ("cvt_13", "cvt_21")
    }
)


def _create(name: str, depths: Sequence[int], pretrained: bool, kwargs: dict[str, Any]) -> CvT:
    model = build_model_with_cfg(CvT, name, pretrained, **({"depths": depths} | kwargs))
    assert isinstance(model, CvT)
    return model


@register_model
def cvt_13(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-13, 19,650,980 parameters at 100 classes."""
    return _create("cvt_13", (1, 2, 10), pretrained, kwargs)


@register_model
def cvt_21(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-21, 31.6 million parameters at 1000 classes."""
    return _create("cvt_21", (1, 4, 16), pretrained, kwargs)
