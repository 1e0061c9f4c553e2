"""Attention distance and feature rank of each block of a model, and the agreement of two heads.

DeiT-LT (CVPR 2024, https://arxiv.org/abs/2404.02900) looks at the rank of a student's features: a
teacher for long tails leaves features of low rank, which generalise from few images. The effective
rank is that of Roy and Vetterli, "The effective rank", EUSIPCO 2007: the exponential of the entropy
of the singular values, taken as shares of their sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitrellis.analysis.attention import attention_distances
from vitrellis.analysis.metrics import accuracy
from vitrellis.errors import UsageError
from vitrellis.models import (
    check_finite_outputs,
    forward_with_maps,
    has_distillation_head,
    num_blocks,
    separate_heads,
)

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class BlockFigures:
    """The figures of one block. Distances are in pixels, and None if no attention can be seen.

    Attributes:
        block: The index of the block, 0-based.
        distance: The mean attention distance over patches, images and heads.
        nearest: The mean attention distance of the head that looks nearest.
        farthest: The mean attention distance of the head that looks farthest.
        width: The number of channels.
        rank: The effective rank of the maps' averages over positions.
        components: The number of principal components with 99 % of their variance.
    """

    block: int
    distance: float | None
    nearest: float | None
    farthest: float | None
    width: int
    rank: float
    components: int


@dataclass(frozen=True)
class HeadAgreement:
    """The agreement of two heads and the accuracy of each, as fractions.

    Attributes:
        agreement: The share of images that both heads give the same class.
        class_top1: The accuracy of the class head.
        distillation_top1: The accuracy of the distillation head.
    """

    agreement: float
    class_top1: float
    distillation_top1: float


@torch.no_grad()
def block_figures(model: nn.Module, images: Tensor) -> list[BlockFigures]:
    """The figures of each block, in order of depth.

    Args:
        model: In eval mode.
        images: `(N, C, H, W)`, normalised.

    Raises:
        VitrellisError: If a map is not finite, naming the first weight or module.
    """
    blocks = list(range(num_blocks(model)))
    pooled: list[list[Tensor]] = [[] for _ in blocks]
    for part in images.split(_IMAGES_AT_ONCE):
        _, maps = forward_with_maps(model, part, blocks)
        for averages, block_map in zip(pooled, maps, strict=True):
            check_finite_outputs(model, part, block_map, _name)
            averages.append(block_map.mean(dim=(2, 3)))
    distances = _mean_distances(model, images)
    rows = []
    for block in blocks:
        features = torch.cat(pooled[block])  # (N, C)
        far = None if distances is None else distances[block]  # (heads,)
        rows.append(
            BlockFigures(
                block=block,
                distance=None if far is None else far.mean().item(),
                nearest=None if far is None else far.min().item(),
                farthest=None if far is None else far.max().item(),
                width=features.shape[1],
                rank=effective_rank(features),
                components=components_for(features),
            )
        )
    return rows


@torch.no_grad()
def head_agreement(model: nn.Module, images: Tensor, labels: Tensor) -> HeadAgreement | None:
    """The agreement of class head and distillation head; None for a model with one head.

    Args:
        model: In eval mode.
        images: `(N, C, H, W)`, normalised.
        labels: `(N,)` int64.

    Raises:
        VitrellisError: If logits are not finite, naming the first weight or module.
    """
    if not has_distillation_head(model):
        return None
    answers = []
    with separate_heads(model):
        for part in images.split(_IMAGES_AT_ONCE):
            by_head = torch.stack(model(part))  # (2, B, K)
            check_finite_outputs(model, part, by_head.transpose(0, 1), _name)
            answers.append(by_head.argmax(dim=2))
    by_class_head, by_distillation_head = torch.cat(answers, dim=1)
    return HeadAgreement(
        agreement=accuracy(by_class_head, by_distillation_head),
        class_top1=accuracy(by_class_head, labels),
        distillation_top1=accuracy(by_distillation_head, labels),
    )


def _name(position: int) -> str:
    return f"image {position} of a batch"


def _mean_distances(model: nn.Module, images: Tensor) -> list[Tensor] | None:
    """`(heads,)` for each block, the mean over the images; None if no attention can be seen."""
    parts = []
    for part in images.split(_IMAGES_AT_ONCE):
        try:
            parts.append([heads * len(part) for heads in attention_distances(model, part)])
        except UsageError:  # a CNN, or attention of another kind
            return None
    return [torch.stack(block).sum(dim=0) / len(images) for block in zip(*parts, strict=True)]


def effective_rank(features: Tensor) -> float:
    """The effective rank: 1 if all images lie in one direction, at most the smaller of N and C.

    Args:
        features: `(N, C)`; their mean is subtracted.
    """
    values = _singular_values(features)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def components_for(features: Tensor, share: float = 0.99) -> int:
    """The number of principal components that hold a share of the variance.

    Args:
        features: `(N, C)`; their mean is subtracted.
        share: The share of the variance, in (0, 1].
    """
    variances = _singular_values(features).square()
    reached = variances.cumsum(dim=0) / variances.sum()
    return int((reached < share - 1e-12).sum()) + 1


def _singular_values(features: Tensor) -> Tensor:
    features = features.cpu().double()  # Apple's GPUs have no double precision
    return torch.linalg.svdvals(features - features.mean(dim=0))
