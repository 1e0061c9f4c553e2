"""Token pruning; its numbers are in `test_parity.py`."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import Attention, ParallelScalingBlock
from torch import Tensor

from tests.parity.rule import FOLDER
from vitrellis.errors import UsageError
from vitrellis.models import create_model, forward_with_maps
from vitrellis.models.evit import EViT, EViTDistilled, attend_and_rank, token_at
from vitrellis.models.support.token_reduction import num_kept, spread

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


def test_tokens_go_back_to_their_places() -> None:
    tokens = torch.tensor([[[1.0], [2.0], [3.0]]], requires_grad=True)
    token = token_at(torch.tensor([[2, -1, 0]]), 4)
    assert token.tolist() == [[2, -1, 0, -1]]
    image = spread(tokens, token)
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


def test_token_counts_of_the_published_code_along_its_schedule() -> None:
    cases = json.loads((FOLDER / "pruning.json").read_text())["token_counts_during_schedule"]
    assert len(cases) == 2
    for case in cases:
        for _, rate, expected in case["rows"]:
            left, counts = case["patches"], []
            for layer in range(12):
                kept = num_kept(rate if layer in case["drop_loc"] else 1.0, left)
                if kept + case["fuse_token"] < left:
                    left = kept + case["fuse_token"]
                counts.append(left)
            assert counts == expected, (case["name"], rate)


@pytest.mark.parametrize(
    ("plain", "evit"),
    [
        ("deit_tiny_patch16_224", PLAIN),
        ("vit_tiny_patch16_224", PLAIN),
        ("deit_tiny_distilled_patch16_224", DISTILLED),
    ],
)
@torch.no_grad()
def test_a_plain_vit_becomes_an_evit_of_the_same_weights(plain: str, evit: str) -> None:
    settings: dict[str, Any] = {"keep_rate": 0.5, "drop_layers": (2, 5), "fuse_token": False}
    ours, converted = build(evit, **settings), build(plain, **settings)
    converted.load_state_dict(ours.state_dict())
    images = pictures()
    assert torch.equal(converted(images), ours(images))
    assert converted.pruning_arguments() == ours.pruning_arguments()
    for mine, theirs in zip(
        forward_with_maps(converted, images, [1, 7])[1],
        forward_with_maps(ours, images, [1, 7])[1],
        strict=True,
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deit3_small_patch16_224", {"depth": 2}),  # layer scale, no position of the class token
        ("vit_small_patch14_reg4_dinov2", {"depth": 2, "patch_size": 16}),  # register tokens
        ("vit_base_patch16_clip_224", {"depth": 2}),  # a norm before the blocks
        ("vit_tiny_patch16_224", {"depth": 2, "qk_norm": True, "scale_attn_norm": True}),
    ],
)
@torch.no_grad()
def test_any_plain_vit_of_timm(name: str, arguments: dict[str, Any]) -> None:
    """Whatever else there is in a block: at keep rate 1 it is timm's model, and below it prunes."""
    plain = timm.create_model(name, num_classes=5, img_size=SIZE, **arguments).eval()
    model = build(name, keep_rate=0.4, drop_layers=(0,), fuse_token=False, **arguments)
    model.load_state_dict(plain.state_dict())
    pruned = model(pictures())
    assert [len(p[0]) for p in model.kept_positions(pictures())] == [10, 10]
    block: Any = model.blocks[0]
    tokens = torch.randn(2, 7, model.embed_dim)
    torch.testing.assert_close(attend_and_rank(block.attn, tokens)[0], block.attn(tokens))
    model.set_keep_rate(1.0)
    torch.testing.assert_close(model(pictures()), plain(pictures()))
    assert not torch.allclose(pruned, plain(pictures()), atol=1e-6)  # layer scale begins at 1e-6


def test_gated_attention_is_timms() -> None:
    torch.manual_seed(0)
    attention = Attention(32, num_heads=4, gated=True, norm_layer=torch.nn.LayerNorm).eval()
    tokens = torch.randn(2, 7, 32)
    out, ranking = attend_and_rank(attention, tokens)
    torch.testing.assert_close(out, attention(tokens))
    torch.testing.assert_close(ranking.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cvt_13", "the layers of CvT"),
        ("vit_base_patch16_siglip_224", "no class token"),
        ("convit_tiny", "the layers of ConVit"),
        ("resnet18", "the layers of ResNet"),
    ],
)
def test_a_model_that_cannot_leave_tokens_out_is_refused(name: str, reason: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=reason) as caught:
        create_model(name, num_classes=5, keep_rate=0.5)
    assert str(caught.value).startswith(f"{name}: ")
    assert "deit_tiny_patch16_224" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"global_pool": "avg"}, "global_pool=token"),
        ({"patch_drop_rate": 0.1}, "patch_drop_rate"),
        ({"block_fn": ParallelScalingBlock}, "its blocks are not timm's plain ones"),
        ({"drop_layers": [12]}, "there is no layer 12, only 0 to 11"),
    ],
)
def test_a_form_of_vit_that_cannot_leave_tokens_out(arguments: dict[str, Any], reason: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=reason):
        create_model("vit_tiny_patch4_32", num_classes=5, keep_rate=0.5, **arguments)


@pytest.mark.parametrize(
    ("rate", "layers", "expected"),
    [(0.7, (1, 2), 0.7), (1.0, (1,), 1.0), ([1.0, 0.5, 0.8], (), [1.0, 0.5, 0.8])],
)
def test_arguments_make_the_same_model_again(
    rate: Any, layers: tuple[int, ...], expected: Any
) -> None:
    model = build("vit_tiny_patch16_224", depth=3, keep_rate=rate, drop_layers=layers)
    arguments = model.pruning_arguments()
    assert arguments["keep_rate"] == expected
    again = build("vit_tiny_patch16_224", depth=3, **arguments)
    assert (again.keep_rate, again.drop_layers) == (model.keep_rate, model.drop_layers)
