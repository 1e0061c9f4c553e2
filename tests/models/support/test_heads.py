"""A second classifier for models of every family; both heads in eval mode, of all that have two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vitrellis.errors import UsageError
from vitrellis.models import (
    create_model,
    forward_with_maps,
    has_distillation_head,
    load_strictly,
    separate_heads,
    set_heads_apart,
)
from vitrellis.models.support.heads import head_modules

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


def build(name: str, **settings: object) -> nn.Module:
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
    with torch.no_grad(), separate_heads(twin):
        label, distillation = twin(inputs)
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


def test_a_zero_head_is_zero_on_both_sides() -> None:
    model = build("dhvt_micro_patch4", distillation_head=True, zero_head=True).eval()
    with torch.no_grad(), separate_heads(model):
        assert all(not logits.any() for logits in model(images("dhvt_micro_patch4")))


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


def square_images(size: int) -> torch.Tensor:
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
    x = square_images(arguments.get("img_size", 224))
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
    tokens = model.forward_features(square_images(32))
    with separate_heads(model):
        class_logits, distillation_logits = model(square_images(32))
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
    x = square_images(28)
    with separate_heads(model):
        logits = model(x)
    assert torch.equal(logits, model(x))
