"""Models by name, timm's and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from vitrellis.errors import UsageError
from vitrellis.models import create_model, list_models, takes_img_size
from vitrellis.models.cifar_resnet import CifarResNet


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UsageError, match="dhvt_micro_patch4"):
        create_model("dhvt_mikro_patch4", num_classes=3)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="cifar_resnet8 refuses widht=3: "):
        create_model("cifar_resnet8", num_classes=3, widht=3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cifar_resnet8", {"depth": 9}),
        ("dhvt_micro_patch4", {"patch_size": 5}),
        ("dhvt_micro_patch4", {"num_heads": 5}),
        ("dhvt_micro_patch4", {"depth": "six"}),
        ("evit_deit_tiny_patch16_224", {"keep_rate": 2}),
        ("pvt_tiny", {"img_size": 28}),
        ("vit_micro_patch4_28", {"num_heads": 5}),
        ("deit_tiny_patch16_224", {"num_heads": 5}),
    ],
)
def test_wrong_arguments_are_the_users(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"^{name} refuses {next(iter(arguments))}="):
        create_model(name, num_classes=3, **arguments)


@pytest.mark.parametrize("error", [AssertionError, OSError, RuntimeError, TypeError, ValueError])
def test_a_fault_of_a_model_file_is_not_the_users(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: CifarResNet) -> None:
        raise error("a fault of ours")

    monkeypatch.setattr(CifarResNet, "init_weights", broken)
    with pytest.raises(error, match="a fault of ours") as raised:
        create_model("cifar_resnet8", num_classes=3, img_size=32, drop_rate=0.1)
    assert raised.type is error


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


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_tiny_patch16_224", True),
        ("deit_tiny_distilled_patch16_224", True),
        ("pit_ti_224", True),
        ("convit_tiny", True),
        ("swin_tiny_patch4_window7_224", True),
        ("vit_micro_patch7_28", True),
        ("pvt_v2_b0", False),
        ("resnet18", False),
        ("convnext_atto", False),
        ("efficientnet_b0", False),
        ("cifar_resnet8", False),
        ("dhvt_micro_patch4", False),
    ],
)
@torch.no_grad()
def test_models_built_for_a_size_are_told_it(
    name: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", None)  # it is answered without building a model
        assert takes_img_size(name) is told
    side = 64 if "micro" not in name else 56
    model = create_model(name, num_classes=3, img_size=side).eval()
    assert model(torch.randn(1, 3, side, side)).shape == (1, 3)


def test_both_pretrained_and_a_file() -> None:
    with pytest.raises(UsageError, match="not both"):
        create_model("resnet18", num_classes=3, pretrained=True, weights=Path("w.pt"))


@pytest.mark.parametrize(
    "name", ["cifar_resnet8", "dhvt_micro_patch4", "resnetv2_50", "levit_128s", "pvt_v2_b0"]
)
@torch.no_grad()
def test_a_head_at_zero(name: str) -> None:
    model = create_model(name, num_classes=3, zero_head=True).eval()
    assert torch.equal(model(torch.randn(2, 3, 224, 224)), torch.zeros(2, 3))


def test_a_head_at_zero_whatever_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(create_model("cifar_resnet8", num_classes=3).state_dict(), path)
    model = create_model("cifar_resnet8", num_classes=3, weights=path, zero_head=True)
    assert not model.get_parameter("fc.weight").any()
    assert not model.get_parameter("fc.bias").any()


def test_a_cosine_classifier_cannot_start_at_zero() -> None:
    with pytest.raises(UsageError, match="CosineClassifier, cannot start at zero"):
        create_model("cifar_resnet8", num_classes=3, cosine=True, zero_head=True)


def test_names_are_sorted_and_can_be_created() -> None:
    names = list_models()
    assert names == sorted(set(names))
    assert {"dhvt_tiny_cifar_patch4", "cifar_resnet56", "vit_tiny_patch4_32"} <= set(names)
    with torch.device("meta"):
        for name in names:
            create_model(name, num_classes=3)
