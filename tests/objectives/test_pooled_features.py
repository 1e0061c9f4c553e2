"""Imitation of pooled features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vitrellis.errors import UsageError
from vitrellis.objectives import PooledFeatures, Signals, pooled_imitation


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def term(**settings: object) -> PooledFeatures:
    torch.manual_seed(0)
    return PooledFeatures(
        student_blocks=[0, 3],
        teacher_blocks=[1, 2],
        student_channels=[4, 6],
        teacher_channels=[3, 5],
        **settings,  # type: ignore[arg-type]
    )


def signals() -> Signals:
    return Signals(
        logits=torch.zeros(2, 3),
        targets=torch.eye(3)[:2],
        student_maps={0: maps(0, 2, 4, 5, 5), 3: maps(1, 2, 6, 3, 2)},
        teacher_maps={1: maps(2, 2, 3, 8, 8), 2: maps(3, 2, 5, 4, 4)},
    )


def test_pairs_are_pooled_projected_and_summed() -> None:
    imitation, batch = term(), signals()
    expected = torch.zeros(())
    for mine, theirs, layer in zip((0, 3), (1, 2), imitation.projections, strict=True):
        pooled = F.adaptive_avg_pool2d(batch.student_maps[mine], 1).flatten(1)
        target = F.adaptive_avg_pool2d(batch.teacher_maps[theirs], 1).flatten(1)
        expected = expected + F.mse_loss(layer(pooled), target)
    torch.testing.assert_close(imitation(batch), expected)
    assert imitation.needs.student_blocks == (0, 3)
    assert imitation.needs.teacher_blocks == (1, 2)


def test_what_is_spatial_is_not_imitated() -> None:
    imitation, batch = term(), signals()
    turned = {block: taken.flip(-1).roll(1, -2) for block, taken in batch.student_maps.items()}
    other = Signals(
        logits=batch.logits,
        targets=batch.targets,
        student_maps=turned,
        teacher_maps=batch.teacher_maps,
    )
    torch.testing.assert_close(imitation(other), imitation(batch))


def test_equal_features_cost_nothing_and_the_cosine_ignores_length() -> None:
    features = maps(0, 4, 7)
    assert pooled_imitation(features, features).item() == 0
    scaled = pooled_imitation(3 * features, features, distance="cosine")
    assert scaled.item() == pytest.approx(0, abs=1e-6)
    opposite = pooled_imitation(-features, features, distance="cosine")
    assert opposite.item() == pytest.approx(2, abs=1e-6)


def test_the_teacher_gets_no_gradient_and_every_projection_does() -> None:
    imitation, batch = term(), signals()
    for taken in batch.teacher_maps.values():
        taken.requires_grad_()
    imitation(batch).backward()
    assert all(taken.grad is None for taken in batch.teacher_maps.values())
    for parameter in imitation.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"features\.distance.*cosine, squared"):
        term(distance="manhattan")
    with pytest.raises(UsageError, match="2 student blocks and 1 teacher blocks"):
        PooledFeatures(
            student_blocks=[0, 1], teacher_blocks=[0], student_channels=[1, 1], teacher_channels=[1]
        )
    with pytest.raises(UsageError, match=r"\(2, 3\).*\(2, 4\)"):
        pooled_imitation(torch.zeros(2, 3), torch.zeros(2, 4))
