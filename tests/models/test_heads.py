"""Both heads in eval mode: of every family in timm that has two, and of ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vitrellis.models import create_model, separate_heads

TWO_HEADED: list[tuple[str, dict[str, Any]]] = [
    ("deit_tiny_distilled_patch16_224", {"img_size": 32, "drop_rate": 0.5, "drop_path_rate": 0.5}),
    ("evit_deit_tiny_distilled_patch16_224", {"img_size": 64, "drop_rate": 0.5}),
    ("pit_ti_distilled_224", {"img_size": 64}),
    ("levit_128s", {}),
    ("efficientformer_l1", {}),
    ("efficientformerv2_s0", {}),
    ("swiftformer_xs", {}),
    ("repvit_m0_9", {"distillation": True}),
]


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def two_headed(name: str, arguments: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, **arguments).eval()
    with torch.no_grad():  # some begin with heads of zeros
        for key, value in model.named_parameters():
            if "head" in key:
                value.normal_()
    return model


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments"), TWO_HEADED, ids=lambda v: str(v)[:20])
def test_the_mean_of_both_heads_is_what_eval_mode_returns(
    name: str, arguments: dict[str, Any]
) -> None:
    model = two_headed(name, arguments)
    x = images(arguments.get("img_size", 224))
    averaged = model(x)
    with separate_heads(model):
        class_logits, distillation_logits = model(x)
    assert not torch.allclose(class_logits, distillation_logits)
    torch.testing.assert_close((class_logits + distillation_logits) / 2, averaged)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(x), averaged)


@torch.no_grad()
def test_they_are_the_heads_of_the_two_tokens() -> None:
    model: Any = two_headed(*TWO_HEADED[0])
    tokens = model.forward_features(images(32))
    with separate_heads(model):
        class_logits, distillation_logits = model(images(32))
    assert torch.equal(class_logits, model.head(tokens[:, 0]))
    assert torch.equal(distillation_logits, model.head_dist(tokens[:, 1]))


def test_a_model_is_left_as_it_was_whatever_happens() -> None:
    model: Any = two_headed(*TWO_HEADED[0])
    model.set_distilled_training(True)
    with pytest.raises(ZeroDivisionError), separate_heads(model):
        _ = 1 / 0
    assert model.distilled_training
    assert not model.training


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_micro_patch7_28", "cifar_resnet8"])
def test_one_head_stays_one(name: str) -> None:
    model = create_model(name, num_classes=4).eval()
    x = images(28)
    with separate_heads(model):
        logits = model(x)
    assert torch.equal(logits, model(x))
