"""Figures of blocks and heads, against rank and distance computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrellis.analysis.attention import attention_distances
from vitrellis.analysis.block_figures import block_figures, effective_rank, head_agreement
from vitrellis.models import create_model, forward_with_maps, separate_heads

IMAGES = torch.randn(70, 3, 28, 28, generator=torch.Generator().manual_seed(0))
"""More than are computed at once."""


def build(name: str, **kwargs: int) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=3, img_size=28, **kwargs).eval()  # type: ignore[arg-type]


@torch.no_grad()
def test_parts_of_a_batch_give_the_figures_of_all_images() -> None:
    model = build("vit_micro_patch7_28")
    rows = block_figures(model, IMAGES)
    distances = attention_distances(model, IMAGES)
    _, maps = forward_with_maps(model, IMAGES, range(len(rows)))
    assert [row.block for row in rows] == [0, 1, 2, 3]
    for row, heads, features in zip(rows, distances, maps, strict=True):
        assert row.nearest == pytest.approx(heads.min().item(), rel=1e-4)
        assert row.distance == pytest.approx(heads.mean().item(), rel=1e-4)
        assert row.farthest == pytest.approx(heads.max().item(), rel=1e-4)
        assert row.width == features.shape[1]
        assert row.rank == pytest.approx(effective_rank(features.mean(dim=(2, 3))), rel=1e-3)


def test_a_cnn_has_ranks_alone_and_one_head() -> None:
    model = build("cifar_resnet8")
    rows = block_figures(model, IMAGES)
    assert {row.distance for row in rows} == {None}
    assert all(row.rank > 1 for row in rows)
    assert head_agreement(model, IMAGES, torch.zeros(70, dtype=torch.int64)) is None


@torch.no_grad()
def test_two_heads_are_told_apart() -> None:
    model = build("deit_tiny_distilled_patch16_224", depth=1, patch_size=7)
    for name, parameter in model.named_parameters():
        if name.startswith("head"):
            nn.init.normal_(parameter)
    with separate_heads(model):
        by_class, by_distillation = (logits.argmax(dim=1) for logits in model(IMAGES))
    figures = head_agreement(model, IMAGES, labels=by_class)
    assert figures is not None
    assert figures.class_top1 == 1
    share = sum(map(int.__eq__, by_class.tolist(), by_distillation.tolist())) / 70
    assert figures.agreement == pytest.approx(share)
    assert figures.distillation_top1 == pytest.approx(share)
