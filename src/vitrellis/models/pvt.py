"""PVT: a pyramid of four stages, whose attention looks at keys and values of reduced resolution.

Paper: Wang et al., "Pyramid Vision Transformer: a versatile backbone for dense prediction without
convolutions", ICCV 2021, https://arxiv.org/abs/2102.12122.
Published form that the numbers follow: github.com/lkhl/tiny-transformers. PVT v2 is timm's.

How we differ from it: images of any size and shape, for which every stage's position embedding is
resampled (it decided by the first stage's number of tokens alone). Module names are those of timm's
PVT v2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from timm.layers import (
    DropPath,
    Mlp,
    calculate_drop_path_rates,
    to_2tuple,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models.support.positions import resample_tokens
from vitrellis.models.support.timm_contract import ClassTokenClassifier, Grid

PATCH_SIZES = (4, 2, 2, 2)
SR_RATIOS = (8, 4, 2, 1)
MLP_RATIOS = (8, 8, 4, 4)
EPS = 1e-6


class PatchEmbedding(nn.Module):
    """Non-overlapping patches, each projected and normalised.

    Rows and columns of pixels that do not fill a patch are dropped.

    Args:
        patch_size: Sides of a patch, in pixels or in tokens of the stage before.
        in_chans: C.
        dim: D.
    """

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """`(B, C, H, W)` to tokens `(B, N, D)` and their grid."""
        x = self.proj(x)
        return self.norm(x.flatten(2).mT), (x.shape[-2], x.shape[-1])


class SpatialReductionAttention(nn.Module):
    """Queries of all tokens; keys and values of windows of `sr_ratio` by `sr_ratio` tokens.

    Args:
        dim: D.
        num_heads: h; each works on d = D / h channels.
        sr_ratio: Sides of a window; what does not fill one is left out.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output.
    """

    def __init__(
        self, dim: int, num_heads: int, sr_ratio: int, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """`(B, N, D)` to the same; with windows, N must be the grid's and hold no class token."""
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, h, N, d)
        if self.sr_ratio > 1:
            reduced = self.sr(x.mT.unflatten(-1, grid))
            x = self.norm(reduced.flatten(2).mT)  # (B, N / sr_ratio ** 2, D)
        k, v = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # (B, h, N, d)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(-2)))


class PVTBlock(nn.Module):
    """Attention and feed-forward, each after a norm and beside a residual connection."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        sr_ratio: int,
        proj_drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = SpatialReductionAttention(dim, num_heads, sr_ratio, attn_drop, proj_drop)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """`(B, N, D)` to the same."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PVTStage(nn.Module):
    """Position embedding and blocks; the first stage's patches are the model's `patch_embed`.

    Args:
        downsample: Makes this stage's tokens of the last one's map; None for the first.
        grid: The grid `(H, W)` that the position embedding is made for.
        num_prefix_tokens: Class tokens of this stage.
        dim: D.
        blocks: The blocks of the stage.
    """

    def __init__(
        self,
        downsample: PatchEmbedding | None,
        grid: Grid,
        num_prefix_tokens: int,
        dim: int,
        blocks: Sequence[PVTBlock],
    ) -> None:
        super().__init__()
        if downsample is not None:
            self.downsample = downsample
        self.grid = grid
        self.num_prefix_tokens = num_prefix_tokens
        self.pos_embed = nn.Parameter(torch.zeros(1, num_prefix_tokens + grid[0] * grid[1], dim))
        self.blocks = nn.ModuleList(blocks)

    def add_position(self, x: Tensor, grid: Grid) -> Tensor:
        """`(B, prefix + N, D)` to the same; another grid than built for is interpolated to."""
        position: Tensor = self.pos_embed
        if grid != self.grid:
            position = resample_tokens(position, self.grid, grid, self.num_prefix_tokens)
        return x + position


class PVT(ClassTokenClassifier):
    """Four stages; a class token joins in the last.

    Args:
        img_size: Pixels that the position embeddings are made for; others are interpolated to.
        in_chans: Image channels.
        num_classes: 0 for none.
        embed_dims: Width of each stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after position embeddings.
        proj_drop_rate: Dropout of attention and feed-forward outputs.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_chans, embed_dims[-1])
        self.patch_embed = PatchEmbedding(PATCH_SIZES[0], in_chans, embed_dims[0])
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims[-1]))
        rates = iter(cast(list[float], calculate_drop_path_rates(drop_path_rate, sum(depths))))
        stages = []
        height, width = to_2tuple(img_size)
        reduction = 1
        for number, (dim, depth, heads) in enumerate(
            zip(embed_dims, depths, num_heads, strict=True)
        ):
            patch = PATCH_SIZES[number]
            height, width, reduction = height // patch, width // patch, reduction * patch
            _check_grid((height, width), number, img_size)
            blocks = [
                PVTBlock(
                    dim,
                    heads,
                    MLP_RATIOS[number],
                    SR_RATIOS[number],
                    proj_drop_rate,
                    attn_drop_rate,
                    next(rates),
                )
                for _ in range(depth)
            ]
            self.feature_info += [
                {"num_chs": dim, "reduction": reduction, "module": f"stages.{number}.blocks.{k}"}
                for k in range(depth)
            ]
            is_last = number == len(depths) - 1
            downsample = PatchEmbedding(patch, embed_dims[number - 1], dim) if number else None
            stages.append(PVTStage(downsample, (height, width), int(is_last), dim, blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dims[-1], eps=EPS)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.new_classifier()
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal 0.02 for tokens, positions and linear layers; convolutions as torch."""
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, PVTStage):
                trunc_normal_(module.pos_embed, std=0.02)
            elif isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def block_outputs(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """`(B, in_chans, H, W)` to each block's tokens `(B, prefix + N, D)`, and their grid."""
        _check_grid((x.shape[-2] // PATCH_SIZES[0], x.shape[-1] // PATCH_SIZES[0]), 0, x.shape[-2:])
        for number, stage in enumerate(self.stages):
            assert isinstance(stage, PVTStage)
            tokens, grid = stage.downsample(x) if number else self.patch_embed(x)
            if stage.num_prefix_tokens:
                tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
            tokens = self.pos_drop(stage.add_position(tokens, grid))
            for block in stage.blocks:
                tokens = self.run_block(block, tokens, grid)
                yield tokens, grid
            x = self.feature_map(tokens, grid)

    def no_weight_decay(self) -> set[str]:
        """The class token and all position embeddings."""
        return {"cls_token", *(f"stages.{number}.pos_embed" for number in range(len(self.stages)))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters from input to output, for layer-wise learning rates."""
        stages = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.blocks\.(\d+)"
        return {
            "stem": r"^patch_embed",
            "blocks": [
                (stages, None),
                (r"^stages\.(\d+)\.(?:downsample|pos_embed)", (0,)),
                (r"^cls_token|^norm", (99999,)),
            ],
        }


def _check_grid(grid: Sequence[int], number: int, img_size: Any) -> None:
    """Refuses images so small that a stage has no window to attend to."""
    if min(grid) < SR_RATIOS[number]:
        raise ValueError(
            f"images of {tuple(to_2tuple(img_size))} pixels are too small for PVT: stage {number} "
            f"has {grid[0]}x{grid[1]} tokens, and attends to windows of {SR_RATIOS[number]}; "
            "32 pixels are the least"
        )


default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 224, 224),
            "min_input_size": (3, 64, 64),
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        for name in ("pvt_tiny", "pvt_small", "pvt_medium", "pvt_large")
    }
)


def _create(name: str, depths: Sequence[int], pretrained: bool, kwargs: dict[str, Any]) -> PVT:
    model = build_model_with_cfg(
        PVT,
        name,
        pretrained,
        **({"depths": depths} | kwargs),
    )
    assert isinstance(model, PVT)
    return model


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PVT:
    """PVT-Tiny, 12,767,588 parameters at 100 classes."""
    return _create("pvt_tiny", (2, 2, 2, 2), pretrained, kwargs)


@register_model
def pvt_small(pretrained: bool = False, **kwargs: Any) -> PVT:
    """PVT-Small, 24.5 million parameters at 1000 classes (paper, table 1)."""
    return _create("pvt_small", (3, 4, 6, 3), pretrained, kwargs)


@register_model
def pvt_medium(pretrained: bool = False, **kwargs: Any) -> PVT:
    """PVT-Medium, 44.2 million parameters at 1000 classes (paper, table 1)."""
    return _create("pvt_medium", (3, 4, 18, 3), pretrained, kwargs)


@register_model
def pvt_large(pretrained: bool = False, **kwargs: Any) -> PVT:
    """PVT-Large, 61.4 million parameters at 1000 classes (paper, table 1)."""
    return _create("pvt_large", (3, 8, 27, 3), pretrained, kwargs)
