"""Models against the published implementations, number by number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.parity.rule import assert_matches, load_case, reference_input, state_by_rule
from vitrellis.models import create_model, forward_with_maps, load_reference_weights

TINY_TRANSFORMERS = {
    "deit-ti_c100": ("deit_tiny_patch16_224", [0, 6, 11]),
    "deit-ti_c100_distill": ("deit_tiny_distilled_patch16_224", [0, 6, 11]),
    "resnet-56_c100": ("cifar_resnet56", [0, 1, 2]),
}


def check(case: str, name: str, mine: Tensor, factor: float) -> None:
    description, arrays = load_case(case)
    stride, largest = description["strides"][name], description["array_max_abs"][name]
    assert_matches(mine, arrays[name], stride, largest, factor)


def build(case: str, architecture: str, source: str) -> tuple[nn.Module, Tensor]:
    description, _ = load_case(case)
    model = create_model(architecture, num_classes=100)
    load_reference_weights(model, state_by_rule(description["state_dict"]), source)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == description["parameters"]["trainable"]
    given = description["input"]
    return model.eval(), reference_input(given["seed"], tuple(given["shape"]))


@pytest.mark.parametrize("case", TINY_TRANSFORMERS)
@torch.no_grad()
def test_tiny_transformers(case: str) -> None:
    architecture, blocks = TINY_TRANSFORMERS[case]
    model, images = build(case, architecture, "tiny-transformers")
    logits, maps = forward_with_maps(model, images, blocks)
    assert isinstance(logits, Tensor)
    check(case, "logits", logits, 2e-5)
    for block, taken in zip(blocks, maps, strict=True):
        check(case, f"feature_{block}", taken, 2e-5)


@torch.no_grad()
def test_both_heads_in_training() -> None:
    case = "deit-ti_c100_distill"
    model, images = build(case, "deit_tiny_distilled_patch16_224", "tiny-transformers")
    model.train()
    model.set_distilled_training(True)  # type: ignore[operator]  # timm's convention
    (class_logits, distillation_logits), _ = forward_with_maps(model, images, [3])
    check(case, "train_logits", class_logits, 2e-5)
    check(case, "train_distill_logits", distillation_logits, 2e-5)


@torch.no_grad()
def test_dhvt() -> None:
    case = "dhvt_tiny_cifar_patch4"
    model, images = build(case, "dhvt_tiny_cifar_patch4", "dhvt")
    seen: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _args, out: seen.update({name: out}))

    record("patch_embed", model.get_submodule("patch_embed"))
    record("attn_block_0", model.get_submodule("blocks.0.attn"))
    record("daff_block_0", model.get_submodule("blocks.0.mlp"))
    record("norm", model.get_submodule("norm"))
    for number in range(12):
        record(f"block_{number}", model.get_submodule(f"blocks.{number}"))
    logits, maps = forward_with_maps(model, images, [5])
    blocks = [seen[f"block_{number}"] for number in range(12)]
    assert isinstance(logits, Tensor)
    check(case, "patch_embed", seen["patch_embed"].flatten(2).mT, 1e-4)
    for name in ("attn_block_0", "daff_block_0", "block_0", "block_5", "block_11"):
        check(case, name, seen[name], 1e-4)
    check(case, "cls_token_by_block", torch.stack([b[:, 0] for b in blocks]), 1e-4)
    check(case, "block_l2", torch.stack([b.flatten(1).norm(dim=1) for b in blocks]), 1e-4)
    check(case, "final_cls", seen["norm"][:, 0], 1e-4)
    check(case, "logits", logits, 1e-4)
    assert torch.equal(maps[0], blocks[5][:, 1:].mT.unflatten(-1, (8, 8)))


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("cifar_resnet56", 100, 861_620),
        ("dhvt_tiny_cifar_patch4", 100, 6_008_650),
        ("dhvt_small_cifar_patch4", 100, 23_425_450),
        ("dhvt_tiny_cifar_patch2", 100, 5_845_162),
        ("dhvt_small_cifar_patch2", 100, 22_766_698),
        ("dhvt_tiny_domain_patch16", 345, 6_105_975),
        ("dhvt_small_domain_patch16", 345, 23_788_431),
        ("dhvt_tiny_imagenet_patch16", 1000, 6_267_334),
        ("dhvt_small_imagenet_patch16", 1000, 24_040_606),
    ],
)
def test_published_parameter_counts(name: str, num_classes: int, parameters: int) -> None:
    model = create_model(name, num_classes=num_classes)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("num_classes", "cosine", "parameters"),
    [(10, False, 464_154), (100, False, 470_004), (10, True, 464_144), (100, True, 469_904)],
)
def test_long_tail_resnet32(num_classes: int, cosine: bool, parameters: int) -> None:
    model = create_model("cifar_resnet32", num_classes=num_classes, shortcut="pad", cosine=cosine)
    assert sum(p.numel() for p in model.parameters()) == parameters
