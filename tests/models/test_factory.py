"""Models by name, weights from files, taps of timm's models."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrellis.errors import UsageError, VitrellisError
from vitrellis.models import (
    block_channels,
    create_model,
    forward_with_maps,
    load_reference_weights,
    num_blocks,
)


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UsageError, match="dhvt_micro_patch4"):
        create_model("dhvt_mikro_patch4", num_classes=3)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(UsageError, match=r"cifar_resnet8: .*'widht'"):
        create_model("cifar_resnet8", num_classes=3, widht=3)


def test_no_published_weights() -> None:
    with pytest.raises(UsageError, match="no weights are published"):
        create_model("dhvt_micro_patch4", num_classes=3, pretrained=True)


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 64), ("deit_tiny_patch16_224", 64), ("mobilenetv3_small_050", 64)],
)
@torch.no_grad()
def test_timm_models_at_other_sizes_and_channels(name: str, size: int) -> None:
    model = create_model(name, num_classes=3, img_size=size, in_chans=2).eval()
    assert model(torch.randn(1, 2, size, size)).shape == (1, 3)


@torch.no_grad()
def test_both_heads_can_start_at_zero() -> None:
    model = create_model(
        "deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, zero_head=True
    ).eval()
    assert torch.equal(model(torch.randn(2, 3, 32, 32)), torch.zeros(2, 3))


def weights_file(folder: Path, num_classes: int = 3, name: str = "cifar_resnet8") -> Path:
    path = folder / "weights.safetensors"
    save_file(create_model(name, num_classes=num_classes).state_dict(), path)
    return path


def test_weights_from_a_file(tmp_path: Path) -> None:
    path = weights_file(tmp_path)
    first = create_model("cifar_resnet8", num_classes=3, weights=path).state_dict()
    second = create_model("cifar_resnet8", num_classes=3, weights=path).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_head_of_other_classes_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = weights_file(tmp_path, num_classes=7)
    with caplog.at_level(logging.WARNING):
        model = create_model("cifar_resnet8", num_classes=3, weights=path)
    assert "starts anew" in caplog.text
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 3)


def test_weights_that_cannot_be_used(tmp_path: Path) -> None:
    path = weights_file(tmp_path, name="cifar_resnet14")
    with pytest.raises(VitrellisError, match=r"not the weights of this model: unknown: stages"):
        create_model("cifar_resnet8", num_classes=3, weights=path)
    os.truncate(path, 1000)
    with pytest.raises(VitrellisError, match="damaged"):
        create_model("cifar_resnet8", num_classes=3, weights=path)
    with pytest.raises(VitrellisError, match="no such file"):
        create_model("cifar_resnet8", num_classes=3, weights=tmp_path / "nothing.pt")


def test_a_payload_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = tmp_path / "weights.pt"
    torch.save({"model": Payload()}, path)
    with pytest.raises(VitrellisError, match="was not read"):
        create_model("cifar_resnet8", num_classes=3, weights=path)
    assert not (tmp_path / "executed").exists()


def test_reference_weights_in_wrappers(tmp_path: Path) -> None:
    state = create_model("dhvt_micro_patch4", num_classes=3).state_dict()
    wrapped = {"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "checkpoint.pth")
    model = create_model("dhvt_micro_patch4", num_classes=3)
    load_reference_weights(model, tmp_path / "checkpoint.pth", source="dhvt")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_reference_weights_that_do_not_fit() -> None:
    model = create_model("cifar_resnet8", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(VitrellisError, match=r"missing: conv1.weight.*unknown: surprise"):
        load_reference_weights(model, {"surprise": torch.zeros(1)})
    with pytest.raises(UsageError, match="tiny-transformers"):
        load_reference_weights(model, {}, source="tiny-transformer")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_stages_of_an_imagenet_resnet_without_its_stem() -> None:
    model = create_model("resnet18", num_classes=3).eval()
    seen: list[Tensor] = []
    layer: nn.Module = model.get_submodule("layer1")
    layer.register_forward_hook(lambda _m, _a, out: seen.append(out))
    _, maps = forward_with_maps(model, torch.randn(1, 3, 64, 64), [0, 3])
    assert torch.equal(maps[0], seen[0])
    assert maps[1].shape == (1, 512, 2, 2)
    assert num_blocks(model) == 4


@torch.no_grad()
def test_blocks_of_a_timm_vit_are_taken_before_the_norm() -> None:
    model = create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=(32, 64)).eval()
    seen: list[Tensor] = []
    last: nn.Module = model.get_submodule("blocks.11")
    last.register_forward_hook(lambda _m, _a, out: seen.append(out))
    _, (taken,) = forward_with_maps(model, torch.randn(1, 3, 32, 64), [11])
    assert torch.equal(taken, seen[0][:, 2:].mT.unflatten(-1, (2, 4)))


def test_blocks_that_are_not_there() -> None:
    model = create_model("cifar_resnet8", num_classes=3)
    with pytest.raises(
        UsageError, match="cifar_resnet8 has 3 blocks to tap, 0 to 2; there is no 3"
    ):
        forward_with_maps(model, torch.randn(1, 3, 16, 16), [3])
    with pytest.raises(UsageError, match="cannot be tapped"):
        num_blocks(nn.Linear(2, 2))


def test_counting_channels_leaves_no_trace() -> None:
    model = create_model("cifar_resnet8", num_classes=3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert block_channels(model, [2, 0], 3, (16, 16)) == [64, 16]
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
