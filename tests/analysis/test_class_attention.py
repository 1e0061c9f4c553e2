"""Class-token attention and rollout against timm's extraction of attention and the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import set_fused_attn
from timm.utils import AttentionExtract
from torch import Tensor, nn

from vitrellis.analysis.class_attention import (
    attention_rollout,
    class_attention,
    head_token_attention,
)
from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.models.dhvt import DHVT, HeadInteractedAttention
from vitrellis.models.evit import EViT
from vitrellis.models.support.token_reduction import TokenReduction

Drawn = list[Tensor]


def images(side: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def model_of(name: str, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, img_size=64, **kwargs).eval()
    with torch.no_grad():  # at its initial weights, all attention is nearly equal
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def extracted(model: nn.Module, name: str) -> Drawn:
    """The attention of every block, `(B, heads, N, N)`, by timm from a model that is not fused."""
    set_fused_attn(False)
    try:
        plain = create_model(name, num_classes=3, img_size=64)
    finally:
        set_fused_attn(True)
    plain.load_state_dict(model.state_dict())
    return list(AttentionExtract(plain.eval(), method="hook")(images()).values())


@pytest.mark.parametrize("name", ["vit_micro_patch8_64", "deit_tiny_distilled_patch16_224"])
def test_class_attention_is_the_row_that_timm_extracts(name: str) -> None:
    model = model_of(name)
    prefix, side = (2, 4) if "distilled" in name else (1, 8)
    expected = extracted(model, name)
    found = class_attention(model, images())
    assert len(found) == len(expected)
    for maps, weights in zip(found, expected, strict=True):
        rows = weights[:, :, 0, prefix:].unflatten(-1, (side, side))
        torch.testing.assert_close(maps, rows, rtol=1e-4, atol=1e-6)


def test_rollout_is_the_product_of_the_paper() -> None:
    name = "vit_micro_patch8_64"
    model = model_of(name)
    product = torch.eye(65, dtype=torch.float64).expand(2, -1, -1)
    for weights in extracted(model, name):
        attention = 0.5 * weights.double().mean(dim=1) + 0.5 * torch.eye(65, dtype=torch.float64)
        product = (attention / attention.sum(dim=-1, keepdim=True)) @ product
    expected = product[:, 0, 1:].unflatten(-1, (8, 8)).float()
    found = attention_rollout(model, images())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_a_model_without_class_token_is_read_by_its_mean() -> None:
    name = "vit_micro_patch8_64"
    model = model_of(name, class_token=False, global_pool="avg")
    maps = class_attention(model, images())
    for block in maps:  # every row of the attention adds up to one, and so does their mean
        torch.testing.assert_close(block.sum(dim=(-2, -1)), torch.ones(2, 3))
    torch.testing.assert_close(attention_rollout(model, images()).sum(dim=(1, 2)), torch.ones(2))


def test_places_that_are_left_behind_are_nan_and_the_others_unchanged() -> None:
    pruned = model_of("vit_micro_patch8_64", keep_rate=0.5, drop_layers=[1], fuse_token=True)
    assert isinstance(pruned, EViT)
    kept = pruned.kept_positions(images())[1]
    found = class_attention(pruned, images())
    pruned.set_keep_rate(1.0)
    whole = class_attention(pruned, images())
    for number in (0, 1):  # tokens are left behind after the attention of the layer
        torch.testing.assert_close(found[number], whole[number])
    for image, places in enumerate(kept):
        left = found[2][image].flatten(1).isfinite()
        assert (left == left[0]).all()
        assert set(left[0].nonzero().flatten().tolist()) == set(places[places >= 0].tolist())


@pytest.mark.parametrize("fuse", [True, False])
def test_rollout_follows_tokens_that_are_fused(fuse: bool) -> None:
    """Where all attention is equal, what is left holds equal shares, and the fused one a mean."""
    model = create_model(
        "vit_micro_patch8_64", num_classes=3, img_size=64, keep_rate=0.5, drop_layers=[1, 2],
        fuse_token=fuse,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name:
                parameter.zero_()
    rollout = attention_rollout(model, images())
    assert rollout.isfinite().all()
    assert (rollout > 0).all()
    assert (rollout.sum(dim=(1, 2)) < 1).all()
    if fuse:  # nothing is lost: the class token and the patches share everything
        pruned = rollout
        model.set_keep_rate(1.0)  # type: ignore[operator]
        whole = attention_rollout(model, images())
        assert pruned.sum() == pytest.approx(float(whole.sum()), rel=0.05)


def test_head_tokens_of_dhvt_against_its_own_queries_and_keys() -> None:
    model = model_of("dhvt_micro_patch8")
    assert isinstance(model, DHVT)
    inputs: list[Tensor] = []
    layer = model.blocks[2].attn
    assert isinstance(layer, HeadInteractedAttention)
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    found = head_token_attention(model, images())
    hook.remove()
    assert [maps.shape for maps in found] == [(2, 3, 8, 8)] * 4
    with torch.no_grad():
        tokens = torch.cat([inputs[0], layer.head_tokens(inputs[0])], dim=1)
        queries, keys, _ = layer.qkv(tokens).chunk(3, dim=-1)
        weights = torch.zeros(2, 68, 68)
        for head in range(3):
            part = slice(32 * head, 32 * head + 32)
            scores = queries[..., part] @ keys[..., part].mT / 32**0.5
            weights = weights + scores.softmax(dim=-1) / 3
    expected = weights[:, -3:, 1:65].unflatten(-1, (8, 8))
    torch.testing.assert_close(found[2], expected, rtol=1e-4, atol=1e-6)


def test_of_merged_tokens_nothing_is_lost() -> None:
    merged = {"merge_tokens": True, "keep_rate": 0.6, "drop_layers": [0, 1, 2]}
    model = model_of("vit_micro_patch8_64", **merged)
    assert isinstance(model, TokenReduction)
    assert int(model.token_of_patch(images())[-1].max()) < 30
    for maps in class_attention(model, images()):
        total = maps.sum(dim=(-2, -1))  # the rest is the class token's own
        assert ((total > 0.5) & (total < 1)).all()
    plain = attention_rollout(model_of("vit_micro_patch8_64"), images()).sum(dim=(1, 2))
    rollout = attention_rollout(model, images()).sum(dim=(1, 2))
    torch.testing.assert_close(rollout, plain, rtol=0.05, atol=0)


def test_a_dhvt_that_prunes() -> None:
    model = model_of("dhvt_micro_patch8", keep_rate=0.5, drop_layers=[1, 2])
    assert isinstance(model, TokenReduction)
    left = [(tokens >= 0).sum(dim=1) for tokens in model.token_of_patch(images())]
    maps = class_attention(model, images())
    heads = head_token_attention(model, images())
    for block in (1, 2, 3):
        for shown in (maps[block], heads[block]):
            count = shown.flatten(2).isfinite().sum(dim=2)
            assert (count == left[block - 1].unsqueeze(1)).all()
    assert attention_rollout(model, images()).isfinite().all()


def test_rollout_through_dhvt_adds_up_to_one() -> None:
    model = model_of("dhvt_micro_patch8")
    rollout = attention_rollout(model, images())
    assert rollout.shape == (2, 8, 8)
    assert (rollout > 0).all()
    assert ((rollout.sum(dim=(1, 2)) > 0.5) & (rollout.sum(dim=(1, 2)) <= 1 + 1e-5)).all()


def test_attention_to_fewer_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="256 tokens attend to"):
        class_attention(create_model("pvt_v2_b0", num_classes=3, img_size=64).eval(), images())
    with pytest.raises(UsageError, match="another size in every stage"):
        attention_rollout(create_model("pit_ti_224", num_classes=3, img_size=64).eval(), images())
