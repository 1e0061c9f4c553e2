"""Token pruning; its numbers are in `test_parity.py`."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from vitrellis.models import create_model, forward_with_maps
from vitrellis.models.evit import EViT, EViTDistilled, num_kept, scatter

PLAIN = "evit_deit_tiny_patch16_224"
DISTILLED = "evit_deit_tiny_distilled_patch16_224"
SIZE = (64, 96)  # 24 patches


def build(name: str, **kwargs: Any) -> EViT:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, img_size=SIZE, **kwargs)
    assert isinstance(model, EViT)
    return model.eval()


def pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("evit", "deit"),
    [
        (PLAIN, "deit_tiny_patch16_224"),
        (DISTILLED, "deit_tiny_distilled_patch16_224"),
    ],
)
@torch.no_grad()
def test_keep_rate_1_is_the_plain_model(evit: str, deit: str) -> None:
    model = build(evit)
    plain = timm.create_model(deit, num_classes=5, img_size=SIZE).eval()
    plain.load_state_dict(model.state_dict())
    pruned = model(pictures())
    model.set_keep_rate(1)
    torch.testing.assert_close(model(pictures()), plain(pictures()))
    assert not torch.allclose(pruned, plain(pictures()), atol=1e-4)


@torch.no_grad()
def test_distilled_heads_see_their_own_sample_and_both_tokens_survive() -> None:
    model = build(DISTILLED, keep_rate=0.3)
    assert isinstance(model, EViTDistilled)
    together = model(pictures())
    for number in range(3):
        torch.testing.assert_close(model(pictures()[number : number + 1])[0], together[number])
    model.set_distilled_training(True)
    model.train()
    class_logits, distillation_logits = model(pictures())
    torch.testing.assert_close((class_logits + distillation_logits) / 2, together)


@pytest.mark.parametrize("fuse", [True, False])
@torch.no_grad()
def test_what_is_left_after_each_layer(fuse: bool) -> None:
    model = build(PLAIN, keep_rate=0.5, fuse_token=fuse)
    kept = model.kept_positions(pictures())
    expected = [24] * 3 + ([13] * 3 + [8] * 3 + [5] * 3 if fuse else [12] * 3 + [6] * 3 + [3] * 3)
    assert [positions.shape[1] for positions in kept] == expected
    for before, after in itertools.pairwise(kept):
        for mine, theirs in zip(after.tolist(), before.tolist(), strict=True):
            patches = [position for position in mine if position >= 0]
            assert len(set(patches)) == len(patches)
            assert set(patches) <= set(theirs)
            assert mine.count(-1) <= fuse * 3


@torch.no_grad()
def test_maps_hold_kept_tokens_in_their_places_and_zeros_elsewhere() -> None:
    model = build(PLAIN, keep_rate=0.5)
    (positions,) = [model.kept_positions(pictures())[7]]
    _, (taken,) = forward_with_maps(model, pictures(), [7])
    assert taken.shape == (3, 192, 4, 6)
    for sample in range(3):
        occupied = taken[sample].flatten(1).abs().sum(dim=0).nonzero().flatten().tolist()
        assert occupied == sorted(p for p in positions[sample].tolist() if p >= 0)


def test_scatter() -> None:
    tokens = torch.tensor([[[1.0], [2.0], [3.0]]], requires_grad=True)
    image = scatter(tokens, torch.tensor([[2, -1, 0]]), 4)
    assert image.flatten().tolist() == [3.0, 0.0, 1.0, 0.0]
    image.sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.flatten().tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("rate", "count", "kept"), [(0.7, 196, 138), (0.55, 100, 55), (0.5, 3, 2), (1.0, 7, 7)]
)
def test_counts_are_rounded_up_but_not_by_rounding_errors(
    rate: float, count: int, kept: int
) -> None:
    assert num_kept(rate, count) == kept


@torch.no_grad()
def test_a_single_token_is_not_fused_with_itself() -> None:
    model = build(PLAIN, keep_rate=0.99)
    assert all(positions.shape[1] == 24 for positions in model.kept_positions(pictures()))
    assert all((positions >= 0).all() for positions in model.kept_positions(pictures()))


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (0.0, "0.0 is not above 0"),
        (1.5, "1.5 is not above 0"),
        ([0.5, 1.0], "2 rates for 12 layers"),
        ([1.0] * 11 + [-1.0], "-1.0 is not above 0"),
    ],
)
def test_rates_that_make_no_sense(rate: float | list[float], message: str) -> None:
    model = build(PLAIN)
    before = model.keep_rate
    with pytest.raises(ValueError, match=message):
        model.set_keep_rate(rate)
    assert model.keep_rate == before


@torch.no_grad()
def test_a_rate_for_every_layer() -> None:
    rates = [1.0] * 5 + [0.5] + [1.0] * 6
    model = build(PLAIN, keep_rate=rates, fuse_token=False)
    assert [p.shape[1] for p in model.kept_positions(pictures(1))] == [24] * 5 + [12] * 7


def test_pruned_tokens_pass_gradients_through_the_fused_one() -> None:
    model = build(PLAIN, keep_rate=0.2)
    images = pictures(1).requires_grad_()
    model(images).sum().backward()
    assert images.grad is not None
    by_patch = images.grad.unfold(2, 16, 16).unfold(3, 16, 16).abs().amax(dim=(1, 4, 5))
    assert (by_patch > 0).all()
