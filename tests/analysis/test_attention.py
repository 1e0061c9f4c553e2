"""Attention distances where they are known, and against timm's own extraction of attention."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import set_fused_attn
from timm.utils import AttentionExtract
from torch import Tensor, nn

from vitrellis.analysis.attention import attention_distances
from vitrellis.analysis.block_figures import components_for, effective_rank
from vitrellis.errors import UsageError
from vitrellis.models import create_model


def images(size: tuple[int, int] = (32, 32), batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def flattened(model: nn.Module) -> nn.Module:
    """Attention that is the same to all tokens."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name:
                parameter.zero_()
    return model.eval()


def mean_distance(rows: int, columns: int, step: float) -> float:
    points = [(y, x) for y in range(rows) for x in range(columns)]
    return sum(step * math.dist(a, b) for a in points for b in points) / len(points) ** 2


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_equal_attention_looks_as_far_as_patches_are_apart(size: tuple[int, int]) -> None:
    model = flattened(create_model("vit_tiny_patch4_32", num_classes=3, img_size=size))
    expected = mean_distance(size[0] // 4, size[1] // 4, 4.0)
    for heads in attention_distances(model, images(size)):
        assert heads.tolist() == pytest.approx([expected] * len(heads), rel=1e-4)


def test_against_timms_attention_extraction() -> None:
    torch.manual_seed(0)
    model = create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=64).eval()
    found = attention_distances(model, images((64, 64)))
    set_fused_attn(False)
    try:
        plain = create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=64)
    finally:
        set_fused_attn(True)
    plain.load_state_dict(model.state_dict())
    maps = AttentionExtract(plain, method="hook")(images((64, 64)))
    assert len(maps) == len(found) == 12
    centres = torch.tensor([[8.0 + 16 * y, 8.0 + 16 * x] for y in range(4) for x in range(4)])
    for heads, weights in zip(found, maps.values(), strict=True):
        among = weights[:, :, 2:, 2:]
        shares = among / among.sum(dim=-1, keepdim=True)
        expected = (shares * torch.cdist(centres, centres)).sum(dim=-1).mean(dim=(0, 2))
        torch.testing.assert_close(heads, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["dhvt_micro_patch4", "pvt_tiny", "cvt_13", "pit_ti_224", "pvt_v2_b0", "t2t_vit_7"]
)
def test_every_family_with_attention_is_measured(name: str) -> None:
    model = create_model(name, num_classes=3, img_size=64).eval()
    for heads in attention_distances(model, images((64, 64))):
        assert heads.isfinite().all()
        assert (heads >= 0).all()
        assert (heads < 64).all()


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="0 attentions were seen in 3 blocks"):
        attention_distances(create_model("cifar_resnet8", num_classes=3).eval(), images())
    pruned = create_model("evit_deit_tiny_patch16_224", num_classes=3, img_size=64).eval()
    with pytest.raises(UsageError, match="drops tokens"):
        attention_distances(pruned, images((64, 64)))


def test_effective_rank_is_that_of_known_spectra() -> None:
    basis, _ = torch.linalg.qr(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    basis = basis - basis.mean(dim=0)
    basis, _ = torch.linalg.qr(basis)
    other, _ = torch.linalg.qr(torch.randn(20, 8, generator=torch.Generator().manual_seed(1)))
    equal = basis @ other.T
    assert effective_rank(equal) == pytest.approx(8, rel=1e-4)
    assert components_for(equal) == 8
    one = basis[:, :1] @ other.T[:1]
    assert effective_rank(one) == pytest.approx(1, abs=1e-3)
    assert components_for(one) == 1
    weights = torch.tensor([3.0, 1.0, 0, 0, 0, 0, 0, 0])
    two = (basis * weights) @ other.T
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(two) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert components_for(two, 0.89) == 1
    assert components_for(two, 0.92) == 2
