"""Weights of published implementations, by their names; their numbers are in `test_parity.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import create_model, load_reference_weights
from vitrellis.models.support.interop import TINY_TRANSFORMERS, translate


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state", "model", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    torch.manual_seed(0)
    state = create_model("dhvt_micro_patch4", num_classes=3).state_dict()
    content: dict[str, Any] = {f"{prefix}{name}": value for name, value in state.items()}
    if wrapper is not None:
        content = {wrapper: content, "epoch": 3}
    torch.save(content, tmp_path / "checkpoint.pth")
    for given in (tmp_path / "checkpoint.pth", str(tmp_path / "checkpoint.pth"), content):
        model = create_model("dhvt_micro_patch4", num_classes=3)
        load_reference_weights(model, given, source="dhvt")
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("size", [0, 1])
def test_efficientnet_lite_counts_its_blocks_through(size: int) -> None:
    """Names of efficientnet_lite_pytorch 0.1.0; the numbers were compared with it by hand."""
    model: Any = create_model(f"tf_efficientnet_lite{size}", num_classes=3)
    modules = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
    modules |= {"_bn1": "bn2", "_fc": "classifier"}
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    for number, place in enumerate(places):
        order = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        if number > 0:  # the first block does not expand
            order = ["_expand_conv", "_bn0", *order]
        own = [name for name, module in model.get_submodule(place).named_children()]
        layers = [name for name in own if name.startswith(("conv", "bn"))]
        for theirs, ours in zip(order, layers, strict=True):
            modules[f"_blocks.{number}.{theirs}"] = f"{place}.{ours}"
    state = {
        f"{theirs}.{name}": torch.randn_like(value) if value.is_floating_point() else value
        for theirs, ours in modules.items()
        for name, value in model.get_submodule(ours).state_dict().items()
    }
    load_reference_weights(model, state, "efficientnet-lite")
    for theirs, ours in modules.items():
        for name, value in model.get_submodule(ours).state_dict().items():
            assert torch.equal(value, state[f"{theirs}.{name}"])
    wrong = {name: value for name, value in state.items() if "_blocks.3." not in name}
    with pytest.raises(VitrellisError, match="not the weights of this model"):
        load_reference_weights(model, wrong, "efficientnet-lite")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("s2.b1.f.a_bn.running_var", "stages.1.0.bn1.running_var"),
        ("s3.b9.f.b.weight", "stages.2.8.conv2.weight"),
        ("s2.b1.bn.bias", "stages.1.0.shortcut.1.bias"),
        ("layers.11.attn.projection.bias", "blocks.11.attn.proj.bias"),
        ("distill_token", "dist_token"),
        (
            "transformers.1.blocks.5.attn.qkv_transform.bias",
            "transformers.1.blocks.5.attn.qkv.bias",
        ),
        ("pools.1.fc.weight", "transformers.2.pool.fc.weight"),
        ("patch_embed1.norm.bias", "patch_embed.norm.bias"),
        ("patch_embed4.proj.bias", "stages.3.downsample.proj.bias"),
        ("block2.1.mlp.dwconv.dwconv.weight", "stages.1.blocks.1.mlp.dwconv.weight"),
        ("block1.0.norm1.weight", "stages.0.blocks.0.norm1.weight"),
        ("norm4.weight", "stages.3.norm.weight"),
        ("norm.weight", "norm.weight"),
    ],
)
def test_names_are_translated(theirs: str, ours: str) -> None:
    assert list(translate({theirs: torch.zeros(1)}, TINY_TRANSFORMERS)) == [ours]


def test_misfits_are_named_and_change_nothing() -> None:
    model = create_model("cifar_resnet8", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(VitrellisError, match=r"missing: conv1.weight.*unknown: surprise"):
        load_reference_weights(model, {"surprise": torch.zeros(1)})
    other = create_model("cifar_resnet8", num_classes=4).state_dict()
    with pytest.raises(VitrellisError, match=r"fc.weight \(4, 64\) instead of \(3, 64\)"):
        load_reference_weights(model, other)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_unknown_source() -> None:
    with pytest.raises(UsageError, match="tiny-transformers"):
        load_reference_weights(create_model("cifar_resnet8", num_classes=3), {}, source="tiny")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], {"model": {"a": "b"}}])
def test_no_weights_inside(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(VitrellisError, match=r"checkpoint.pth: .*(not a state dict|not weights)"):
        load_reference_weights(
            create_model("cifar_resnet8", num_classes=3), tmp_path / "checkpoint.pth"
        )
