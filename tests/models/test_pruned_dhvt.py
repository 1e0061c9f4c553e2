"""DHVT that leaves tokens behind, against a DHVT that sees zeros where there are none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from vitrellis.models import create_model, forward_with_maps
from vitrellis.models.dhvt import DHVT, DHVTBlock
from vitrellis.models.pruned_dhvt import (
    PrunedDHVT,
    attend_and_rank_by_heads,
    convolve_at,
    forward_at,
)

SIZE = (24, 32)  # 6 x 8 patches


def build(**kwargs: Any) -> PrunedDHVT:
    torch.manual_seed(0)
    model = create_model("dhvt_micro_patch4", num_classes=5, img_size=SIZE, **kwargs)
    assert isinstance(model, PrunedDHVT)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


def pictures(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_keep_rate_1_is_the_plain_model() -> None:
    model = build(keep_rate=0.5, drop_layers=[1, 2])
    plain = create_model("dhvt_micro_patch4", num_classes=5, img_size=SIZE).eval()
    assert type(plain) is DHVT
    plain.load_state_dict(model.state_dict())
    pruned = model(pictures())
    model.set_keep_rate(1)
    torch.testing.assert_close(model(pictures()), plain(pictures()))
    assert not torch.allclose(pruned, plain(pictures()), atol=1e-4)


@torch.no_grad()
def test_all_tokens_in_any_order_are_the_plain_block() -> None:
    """The form for tokens that are left, of all of them: the class token and the grid are right."""
    model = build(keep_rate=0.999, drop_layers=[0], fuse_token=False)
    tokens, grid = model.embed(pictures())
    order = torch.stack([torch.randperm(48) for _ in range(2)])
    shuffled = torch.cat(
        [tokens[:, :1], tokens[:, 1:].gather(1, order[..., None].expand(-1, -1, 96))], 1
    )
    block = model.blocks[1]
    left, positions = forward_at(block, shuffled, order, grid, None, False)
    expected = block(tokens, grid)
    assert torch.equal(positions, order)
    torch.testing.assert_close(left[:, 0], expected[:, 0])
    back = left[:, 1:].gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, 96))
    torch.testing.assert_close(back, expected[:, 1:])


def slow_convolution(
    weight: Tensor, bias: Tensor, values: dict[tuple[int, int], Tensor]
) -> dict[tuple[int, int], Tensor]:
    """A 3x3 depthwise convolution, place by place; what is not there counts nothing."""
    return {
        (row, column): bias
        + sum(
            (
                weight[:, 0, 1 + down, 1 + across] * values[row + down, column + across]
                for down, across in itertools.product((-1, 0, 1), repeat=2)
                if (row + down, column + across) in values
            ),
            torch.zeros_like(bias),
        )
        for row, column in values
    }


@torch.no_grad()
def test_the_convolution_sees_the_neighbours_that_are_left() -> None:
    conv = torch.nn.Conv2d(5, 5, 3, padding=1, groups=5).double()
    positions = torch.tensor([[0, 9, 10, 17, 47, 7, -1]])
    x = torch.randn(1, 7, 5, dtype=torch.double)
    found = convolve_at(conv, x, positions, (6, 8))
    assert conv.bias is not None
    places = [divmod(position, 8) for position in positions[0, :6].tolist()]
    values = {place: x[0, number] for number, place in enumerate(places)}
    for number, expected in enumerate(slow_convolution(conv.weight, conv.bias, values).values()):
        torch.testing.assert_close(found[0, number], expected)
    alone = slow_convolution(conv.weight, conv.bias, {(3, 3): x[0, 6]})
    torch.testing.assert_close(found[0, 6], alone[3, 3])


@torch.no_grad()
def test_the_ranking_is_the_class_tokens_attention() -> None:
    """Seen by identity matrices as values: the weighted values are the weights themselves."""
    attention = build(keep_rate=0.5, drop_layers=[1]).blocks[0].attn
    x = torch.randn(2, 9, 96)
    out, ranking = attend_and_rank_by_heads(attention, x)
    torch.testing.assert_close(out, attention(x))
    q, k, _ = attention.queries_keys_values(x)
    weights = attention.attend(q, k, torch.eye(12).expand(2, 3, 12, 12))  # 9 tokens, 3 of heads
    torch.testing.assert_close(ranking, weights[:, :, 0, :9].mean(dim=1))


@pytest.mark.parametrize("fuse", [True, False])
@torch.no_grad()
def test_what_is_left_after_each_layer(fuse: bool) -> None:
    model = build(keep_rate=0.5, drop_layers=[1, 2], fuse_token=fuse)
    kept = model.kept_positions(pictures())
    assert [p.shape[1] for p in kept] == ([48, 25, 14, 14] if fuse else [48, 24, 12, 12])
    _, (taken,) = forward_with_maps(model, pictures(), [3])
    assert taken.shape == (2, 96, 6, 8)
    for sample in range(2):
        occupied = taken[sample].flatten(1).abs().sum(dim=0).nonzero().flatten().tolist()
        assert occupied == sorted(p for p in kept[3][sample].tolist() if p >= 0)


def test_every_parameter_learns_from_what_is_left() -> None:
    model = build(keep_rate=0.5, drop_layers=[1, 2]).train()
    images = pictures().requires_grad_()
    model.set_grad_checkpointing(True)
    model(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert isinstance(model.blocks[0], DHVTBlock)


def test_the_same_model_is_made_again() -> None:
    model = build(keep_rate=[1.0, 0.5, 0.8, 1.0], drop_layers=[1, 2])
    again = build(**model.pruning_arguments())
    assert again.keep_rate == model.keep_rate
