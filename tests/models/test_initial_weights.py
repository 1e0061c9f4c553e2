"""Initial weights and weight decay beside the published rules, which are stated again here.

Moments of each tensor over twenty seeds: a uniform and a normal distribution of the same deviation
differ in the fourth.
"""

from __future__ import annotations

import math
import types
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vitrellis.assembly.build import build_student
from vitrellis.models import create_model
from vitrellis.recipe import load_recipe
from vitrellis.training.optimizers import parameter_groups

SEEDS = 20
SOURCE: Any = types.SimpleNamespace(num_classes=100, channels=3)

Rule = Callable[[Tensor], Tensor]


def moments(draws: list[Tensor]) -> tuple[float, float, float]:
    """Mean, standard deviation, and fourth moment over the squared second."""
    together = torch.cat([draw.flatten() for draw in draws]).double()
    second = together.square().mean()
    fourth = together.pow(4).mean() / second.square() if second > 0 else second
    return float(together.mean()), float(second.sqrt()), float(fourth)


def assert_starts_as(
    build: Callable[[], nn.Module], rule: Callable[[str, nn.Module], Rule]
) -> None:
    """Every tensor of a model is distributed as its published rule says.

    Args:
        build: Makes a model.
        rule: Fills an empty tensor of a parameter's shape, from its name and its module.
    """
    mine, theirs = defaultdict(list), defaultdict(list)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = build()
        torch.manual_seed(1000 + seed)
        for name, parameter in model.named_parameters():
            module = model.get_submodule(name.rpartition(".")[0])
            mine[name].append(parameter.detach())
            theirs[name].append(rule(name, module)(torch.empty_like(parameter.detach())))
    for name, draws in mine.items():
        (mean, std, fourth), (their_mean, their_std, their_fourth) = map(
            moments, (draws, theirs[name])
        )
        count = sum(draw.numel() for draw in draws)
        noise = 6 / math.sqrt(count)
        assert mean == pytest.approx(their_mean, abs=noise * max(std, their_std) + 1e-9), name
        assert std == pytest.approx(their_std, rel=noise, abs=1e-9), name
        assert fourth == pytest.approx(their_fourth, rel=5 * noise, abs=1e-9), name


def norm(name: str) -> Rule:
    return nn.init.ones_ if name.endswith("weight") else nn.init.zeros_


def uniform(fan_in: int) -> Rule:
    """torch's own rule for the weight and the bias of convolutions and linear layers."""
    return lambda tensor: nn.init.uniform_(tensor, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


def truncated(std: float) -> Rule:
    return lambda tensor: nn.init.trunc_normal_(tensor, std=std)


def unit_columns(tensor: Tensor) -> Tensor:
    """LDAM-DRW's `NormedLinear`: columns of length 1; here classes are rows."""
    columns = torch.empty(tensor.shape[1], tensor.shape[0])
    return columns.uniform_(-1, 1).renorm_(2, 1, 1e-5).mul_(1e5).T


def ldam(name: str, module: nn.Module) -> Rule:
    """LDAM-DRW: `init.kaiming_normal_(m.weight)` for convolutions and linear layers."""
    if isinstance(module, nn.BatchNorm2d):
        return norm(name)
    if isinstance(module, nn.Linear) and name.endswith("bias"):
        return uniform(module.in_features)
    if isinstance(module, nn.Conv2d | nn.Linear):
        return nn.init.kaiming_normal_
    return unit_columns


def paco(name: str, module: nn.Module) -> Rule:
    """PaCo: the encoder as LDAM-DRW, and a classifier beside it that torch initialises."""
    return uniform(module.in_features) if isinstance(module, nn.Linear) else ldam(name, module)


def dhvt(name: str, module: nn.Module) -> Rule:
    """DHVT: linear layers and tokens as in DeiT, convolutions as torch's."""
    if isinstance(module, nn.Linear):
        return nn.init.zeros_ if name.endswith("bias") else truncated(0.02)
    if isinstance(module, nn.Conv2d):
        return uniform(math.prod(module.weight.shape[1:]))
    if name.endswith(("cls_token", "pos_embed")):
        return truncated(0.02)
    if name.endswith(("alpha", "beta")):
        return nn.init.ones_ if name.endswith("alpha") else nn.init.zeros_
    return norm(name)


@pytest.mark.parametrize(
    ("recipe", "rule"),
    [
        ("cifar100-lt-resnet32", ldam),  # the cosine classifier
        ("cifar100-lt-resnet32-ce-sam", ldam),  # a linear one
        ("cifar100-lt-resnet32-paco", paco),
    ],
)
def test_long_tail_resnets(recipe: str, rule: Callable[[str, nn.Module], Rule]) -> None:
    loaded = load_recipe(recipe, ["model.args.depth=8"])
    assert_starts_as(lambda: build_student(loaded, SOURCE), rule)


def test_classes_of_a_cosine_classifier_have_length_one() -> None:
    model = create_model("cifar_resnet8", num_classes=7, cosine=True)
    lengths = model.get_parameter("fc.weight").norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(7))


@pytest.mark.parametrize("patch_size", [2, 4, 16])
def test_dhvt(patch_size: int) -> None:
    args: dict[str, Any] = {"patch_size": patch_size, "depth": 2, "embed_dim": 96}
    assert_starts_as(lambda: create_model("dhvt_tiny_cifar_patch4", num_classes=10, **args), dhvt)


def test_all_of_dhvt_decays_that_decayed_as_published() -> None:
    # timm's rule of that time: one-dimensional, a bias, or in {"pos_embed", "cls_token",
    # "dist_token"} by its whole name, which head position embeddings' names are not
    model: Any = create_model("dhvt_tiny_cifar_patch4", num_classes=10, depth=2)
    groups = parameter_groups(
        model, lr=1, weight_decay=0.05, no_weight_decay=model.no_weight_decay()
    )
    decay = {group["weight_decay"]: set(group["param_names"]) for group in groups}
    assert decay[0.05] >= {"patch_embed.pre_affine.alpha", "patch_embed.post_affine.beta"}
    assert decay[0.05] >= {"blocks.0.attn.pos_embed", "blocks.1.attn.pos_embed"}
    skipped = {"pos_embed", "cls_token", "dist_token"}
    assert decay[0.0] == {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 1 or name.endswith(".bias") or name in skipped
    }


@pytest.mark.parametrize("recipe", ["cifar100-lt-resnet32", "cifar100-lt-resnet32-paco"])
def test_long_tail_codes_let_everything_decay(recipe: str) -> None:
    assert load_recipe(recipe, []).optimizer.decay_all
    model = create_model("cifar_resnet8", num_classes=10)
    groups = parameter_groups(model, lr=1, weight_decay=5e-4, decay_all=True)
    assert {group["weight_decay"] for group in groups} == {5e-4}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "args", "std"),
    [
        ("deit_tiny_patch16_224", {}, 0.02),
        ("deit_tiny_distilled_patch16_224", {}, 0.02),
        ("evit_deit_tiny_patch16_224", {"drop_layers": ()}, 0.02),
        ("evit_deit_tiny_distilled_patch16_224", {"drop_layers": ()}, 0.02),
        ("deit_tiny_distilled_patch16_224", {"class_token_std": 1e-6}, 1e-6),
    ],
)
def test_class_tokens(name: str, args: dict[str, Any], std: float) -> None:
    tokens = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = create_model(name, num_classes=3, img_size=32, depth=0, **args)
        tokens.append(model.get_parameter("cls_token").detach())
    assert moments(tokens)[1] == pytest.approx(std, rel=0.1)


def test_deit_lts_class_token_is_that_of_its_code() -> None:
    assert load_recipe("cifar100-lt-deit-b", []).model.args["class_token_std"] == 1e-6


@pytest.mark.parametrize(
    "recipe", ["cifar100-pit-ti", "cifar100-pit-ti-lg", "cifar100-pit-ti-lskd"]
)
def test_pits_stochastic_depth_stops_one_block_short(recipe: str) -> None:
    with torch.device("meta"):
        model = build_student(load_recipe(recipe, []), SOURCE)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    published = [0.1 * block / 12 for block in range(1, 12)]  # the first block has none
    assert rates[::2] == pytest.approx(published)
    assert rates[1::2] == pytest.approx(published)


@pytest.mark.parametrize("recipe", ["cifar100-pvtv2-b0", "cifar100-pvtv2-b0-lg"])
def test_pvt_v2_has_one_eps(recipe: str) -> None:
    with torch.device("meta"):
        model = build_student(load_recipe(recipe, []), SOURCE)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 30
    assert {module.eps for module in norms} == {1e-6}


@pytest.mark.parametrize("recipe", ["imagenet-lt-resnet50-paco", "inaturalist-2018-resnet50-paco"])
def test_pacos_residual_branches_do_not_start_at_zero(recipe: str) -> None:
    model = build_student(load_recipe(recipe, ["model.args.layers=[1,1,1,1]"]), SOURCE)
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            assert torch.equal(parameter, torch.ones_like(parameter))
