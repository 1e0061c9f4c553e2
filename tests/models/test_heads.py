"""A second classifier for models of every family."""

from __future__ import annotations

import pytest
import torch

from vitrellis.errors import UsageError
from vitrellis.models import (
    create_model,
    forward_heads,
    forward_with_maps,
    has_distillation_head,
    load_strictly,
    set_heads_apart,
)
from vitrellis.models.heads import head_modules

SINGLE = [
    "cifar_resnet8",
    "convit_tiny",
    "cvt_13",
    "deit_tiny_patch16_224",
    "dhvt_micro_patch4",
    "evit_deit_tiny_patch16_224",
    "mobilenetv3_small_050",
    "pit_ti_224",
    "pvt_tiny",
    "pvt_v2_b0",
    "resnet18",
    "swin_tiny_patch4_window7_224",
    "t2t_vit_7",
    "vit_micro_patch7_28",
]
DISTILLED = ["deit_tiny_distilled_patch16_224", "pit_ti_distilled_224"]
DISTILLED += ["evit_deit_tiny_distilled_patch16_224"]


def images(name: str, batch: int = 2) -> torch.Tensor:
    size = {"vit_micro_patch7_28": 28, "swin_tiny_patch4_window7_224": 224}.get(name, 64)
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def build(name: str, **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    size = images(name).shape[-1]
    return create_model(name, num_classes=5, img_size=size, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SINGLE)
def test_any_model_gets_a_second_head(name: str) -> None:
    plain, twin = build(name), build(name, distillation_head=True)
    assert not has_distillation_head(plain)
    assert has_distillation_head(twin)
    inputs = images(name)
    twin.eval()
    label, distillation = forward_heads(twin, inputs)
    assert label.shape == distillation.shape == (2, 5)
    assert not torch.allclose(label, distillation)
    torch.testing.assert_close(twin(inputs), (label + distillation) / 2)
    state = {
        key.replace(".label.", "."): value
        for key, value in twin.state_dict().items()
        if ".distillation." not in key
    }
    load_strictly(plain, state, name)
    torch.testing.assert_close(plain.eval()(inputs), label)


@pytest.mark.parametrize("name", [*SINGLE, *DISTILLED])
def test_both_heads_are_apart_in_training_and_learn(name: str) -> None:
    model = build(name, distillation_head=name in SINGLE).train()
    set_heads_apart(model)
    logits, maps = forward_with_maps(model, images(name, 3), [0])
    assert isinstance(logits, tuple)
    assert [one.shape for one in logits] == [(3, 5), (3, 5)]
    assert len(maps) == 1
    logits[1].square().sum().backward()
    label, distillation = (list(head.parameters()) for head in head_modules(model))
    assert all(p.grad is None or not p.grad.any() for p in label)
    assert all(p.grad is not None and p.grad.any() for p in distillation)


@pytest.mark.parametrize("name", DISTILLED)
def test_heads_of_distilled_models_are_seen_in_evaluation(name: str) -> None:
    model = build(name).eval()
    inputs = images(name)
    label, distillation = forward_heads(model, inputs)
    torch.testing.assert_close(model(inputs), (label + distillation) / 2)


def test_a_zero_head_is_zero_on_both_sides() -> None:
    model = build("dhvt_micro_patch4", distillation_head=True, zero_head=True).eval()
    assert all(not logits.any() for logits in forward_heads(model, images("dhvt_micro_patch4")))


def test_resetting_the_classifier_takes_the_second_head_away() -> None:
    model = build("dhvt_micro_patch4", distillation_head=True)
    model.reset_classifier(3)  # type: ignore[operator]  # timm's convention
    assert not has_distillation_head(model)
    assert model.eval()(images("dhvt_micro_patch4")).shape == (2, 3)


def test_a_model_with_two_heads_gets_no_third() -> None:
    with pytest.raises(UsageError, match="has a distillation head already"):
        build("deit_tiny_distilled_patch16_224", distillation_head=True)


def test_a_model_without_a_classifier_is_refused() -> None:
    with pytest.raises(UsageError, match="Identity, cannot have a second one"):
        create_model("resnet18", num_classes=0, distillation_head=True)
