"""Feature maps from inside of timm's models; those of our own are in `test_contracts.py`."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from vitrellis.errors import UsageError
from vitrellis.models import block_channels, create_model, forward_with_maps, num_blocks


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


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("deit_tiny_patch16_224", 12),
        ("deit_tiny_distilled_patch16_224", 12),
        ("convit_tiny", 12),
        ("pit_ti_224", 12),
        ("pit_ti_distilled_224", 12),
        ("pvt_v2_b0", 8),
        ("swin_tiny_patch4_window7_224", 4),
        ("resnet18", 4),
        ("convnext_atto", 4),
        ("efficientnet_b0", 5),
        ("mobilenetv3_small_050", 5),
        ("cifar_resnet8", 3),
    ],
)
@torch.no_grad()
def test_taps_leave_the_logits_as_they_are(name: str, count: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    blocks = list(range(num_blocks(model)))
    assert len(blocks) == count
    logits, maps = forward_with_maps(model, images, blocks)
    assert isinstance(logits, Tensor)
    torch.testing.assert_close(logits, model(images), rtol=1e-5, atol=1e-5)
    assert block_channels(model, blocks, 3, (64, 64)) == [taken.shape[1] for taken in maps]
    without, none = forward_with_maps(model, images, [])
    assert none == []
    assert isinstance(without, Tensor)
    assert torch.equal(without, model(images))


@pytest.mark.parametrize(
    ("name", "prefix_tokens"), [("pit_ti_224", 1), ("pit_ti_distilled_224", 2), ("pvt_v2_b0", 0)]
)
@torch.no_grad()
def test_blocks_over_all_stages(name: str, prefix_tokens: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, img_size=(64, 96)).eval()
    seen: list[Tensor] = []
    for path, module in model.named_modules():
        if path.split(".")[-2:-1] == ["blocks"]:
            module.register_forward_hook(lambda _m, _a, out: seen.append(out))
    asked = list(reversed(range(num_blocks(model))))
    _, maps = forward_with_maps(model, torch.randn(2, 3, 64, 96), asked)
    assert len(seen) == len(asked)
    for block, taken in zip(asked, maps, strict=True):
        assert torch.equal(taken.flatten(2).mT, seen[block][:, prefix_tokens:])
        assert taken.shape[-1] > taken.shape[-2]


@pytest.mark.parametrize("name", ["pit_ti_distilled_224", "deit_tiny_distilled_patch16_224"])
def test_distilled_training_returns_both_logits(name: str) -> None:
    model = create_model(name, num_classes=3, img_size=64).train()
    model.set_distilled_training(True)  # type: ignore[operator]  # timm's convention
    logits, maps = forward_with_maps(model, torch.randn(2, 3, 64, 64), [0])
    assert isinstance(logits, tuple)
    assert [part.shape for part in logits] == [(2, 3), (2, 3)]
    assert len(maps) == 1


@pytest.mark.parametrize("name", ["pit_ti_224", "pvt_v2_b0"])
def test_every_parameter_of_staged_models_learns_through_taps(name: str) -> None:
    model = create_model(name, num_classes=3, img_size=64).train()
    logits, _ = forward_with_maps(model, torch.randn(2, 3, 64, 64), [0])
    assert isinstance(logits, Tensor)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_checkpointing_saves_in_tapped_passes_too() -> None:
    torch.manual_seed(0)
    model = create_model("pvt_v2_b0", num_classes=3).train()
    images = torch.randn(2, 3, 64, 64)
    plain, _ = forward_with_maps(model, images, [3])
    model.set_grad_checkpointing(True)  # type: ignore[operator]  # timm's convention
    saving, (taken,) = forward_with_maps(model, images, [3])
    assert isinstance(plain, Tensor)
    assert isinstance(saving, Tensor)
    torch.testing.assert_close(saving, plain)
    (saving.sum() + taken.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["pit_ti_224", "pvt_v2_b0"])
@torch.no_grad()
def test_staged_models_compile_without_a_break(name: str) -> None:
    model = create_model(name, num_classes=3, img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(forward_with_maps, fullgraph=True, backend="eager")
    logits, maps = compiled(model, images, [0, 5])
    expected, expected_maps = forward_with_maps(model, images, [0, 5])
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(maps, expected_maps)


@pytest.mark.parametrize("block", [-1, 12])
def test_the_range_is_named(block: int) -> None:
    model = create_model("deit_tiny_patch16_224", num_classes=3, img_size=32)
    with pytest.raises(UsageError, match=f"has 12 blocks to tap, 0 to 11; there is no {block}"):
        forward_with_maps(model, torch.randn(1, 3, 32, 32), [block])


def test_a_timm_model_made_without_us() -> None:
    model = timm.create_model("resnet18", num_classes=3)
    assert block_channels(model, [0, 3], 3, (64, 64)) == [64, 512]
    assert model.training


def test_a_mixed_training_mode_is_kept() -> None:
    model = create_model("resnet18", num_classes=3).train()
    model.get_submodule("layer1").eval()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    block_channels(model, [1], 3, (64, 64))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    with pytest.raises(UsageError):
        block_channels(model, [9], 3, (64, 64))
    assert {name: module.training for name, module in model.named_modules()} == before
