"""Frozen parts and layer-wise learning rates, against what the layers of each model are by hand."""

from __future__ import annotations

import pytest
from torch import nn

from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.models.support.frozen import (
    freeze,
    frozen_parts,
    keep_frozen_norms,
    layer_scales,
)


def built(name: str) -> nn.Module:
    return create_model(name, num_classes=5, img_size=64)


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


STEM = ["cls_token", "pos_embed", "patch_embed"]


@pytest.mark.parametrize(
    ("name", "what", "parts"),
    [
        ("vit_micro_patch8_64", 1, STEM),
        ("vit_micro_patch8_64", 3, [*STEM, "blocks.0", "blocks.1"]),
        ("vit_micro_patch8_64", "body", [*STEM, "blocks", "norm"]),
        ("vit_micro_patch8_64", ["blocks.2.mlp", "pos_embed"], ["pos_embed", "blocks.2.mlp"]),
        ("dhvt_micro_patch8", 2, ["cls_token", "patch_embed", "blocks.0"]),
        ("resnet18", 1, ["conv1", "bn1"]),
        ("resnet18", "body", ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
    ],
)
def test_what_is_frozen(name: str, what: object, parts: list[str]) -> None:
    model = built(name)
    freeze(model, what, name)  # type: ignore[arg-type]
    assert frozen_parts(model) == parts
    inside = tuple(f"{part}." for part in parts)
    names = [key for key, _ in model.named_parameters()]
    assert frozen_names(model) == {k for k in names if k in parts or k.startswith(inside)}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (["blocks.9"], "has no part 'blocks.9'. Its parts are cls_token, pos_embed, patch_embed"),
        (["block"], "has no part 'block'"),
        (9, "9 layers, but vit_micro_patch8_64 has 5"),
        ([*STEM, "blocks", "norm", "head"], "Leave something"),
    ],
)
def test_what_cannot_be_frozen(what: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        freeze(built("vit_micro_patch8_64"), what, "vit_micro_patch8_64")  # type: ignore[arg-type]


def test_batch_norms_of_frozen_parts_alone_stay_in_eval_mode() -> None:
    model = built("resnet18")
    freeze(model, ["layer1", "layer2.0.bn1"], "resnet18")
    model.train()
    assert keep_frozen_norms(model) == 5
    norms = {k: m for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    evaluated = {name for name, norm in norms.items() if not norm.training}
    assert evaluated == {name for name in norms if name.startswith("layer1")} | {"layer2.0.bn1"}
    assert model.get_submodule("layer1").training  # all else is in train mode


def test_rates_decay_from_the_head_to_the_embedding() -> None:
    scales = layer_scales(built("vit_micro_patch8_64"), 0.5)
    layers = {"cls_token": 5, "pos_embed": 5, "patch_embed.proj.weight": 5, "norm.weight": 1}
    layers |= {f"blocks.{block}.attn.qkv.weight": 4 - block for block in range(4)}
    layers |= {"head.weight": 0, "head.bias": 0}
    assert {name: scales[name] for name in layers} == {k: 0.5**n for k, n in layers.items()}
    assert len(scales) == len(list(built("vit_micro_patch8_64").parameters()))


def test_frozen_parameters_have_no_rate() -> None:
    model = built("dhvt_micro_patch8")
    freeze(model, 2, "dhvt_micro_patch8")
    assert scales_of(model).isdisjoint(frozen_names(model))


def scales_of(model: nn.Module) -> set[str]:
    return set(layer_scales(model, 0.7))
