"""Parameter groups and learning rates against the published ones and timm's."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, kron, list_optimizers, param_groups_weight_decay
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from tests.training.tiny import tiny
from vitrellis.assembly.optimization import build_optimizer
from vitrellis.errors import UsageError
from vitrellis.models import create_model
from vitrellis.models.support.frozen import layer_scales
from vitrellis.objectives import CrossEntropy, Objective
from vitrellis.recipe import recipe_from
from vitrellis.training.guided import GuidedStudent
from vitrellis.training.optimizers import (
    LearningRate,
    classifier_names,
    create_optimizer,
    parameter_groups,
)

VECTORS = json.loads((Path(__file__).parents[1] / "parity" / "training.json").read_text())


def schedule(**changes: Any) -> LearningRate:
    settings: dict[str, Any] = {
        "name": "cosine",
        "epochs": 10,
        "steps_per_epoch": 7,
        "warmup_epochs": 2,
        "warmup_factor": 0.1,
        "min_lr": 1e-5,
        "per": "step",
        "shift_cosine": True,
    }
    return LearningRate(**(settings | changes))


@pytest.mark.parametrize("case", VECTORS["lr_schedule"], ids=lambda case: case["name"])
def test_published_schedule(case: dict[str, Any]) -> None:
    rate = schedule(
        epochs=case["epochs"],
        warmup_epochs=case["warmup_epochs"],
        warmup_factor=case["warmup_factor"],
        min_lr=case["min_lr"],
        per="epoch",
        shift_cosine=False,
    )
    mine = [rate.at(epoch, 3, case["base_lr"]) for epoch in range(case["epochs"])]
    assert mine == pytest.approx(case["lr_by_epoch"], rel=1e-9)


@pytest.mark.parametrize("shift", [True, False])
def test_per_step_equals_timm(shift: bool) -> None:
    rate = schedule(shift_cosine=shift)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=70 - (14 if shift else 0),
        lr_min=1e-5,
        warmup_t=14,
        warmup_lr_init=0.03,
        warmup_prefix=shift,
        t_in_epochs=False,
    )
    for step in range(70):
        theirs.step_update(step)
        assert rate.at(step // 7, step % 7, 0.3) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-9
        )


def test_constant_after_warmup() -> None:
    rate = schedule(name="constant")
    assert rate.at(0, 0, 1.0) == pytest.approx(0.1)
    assert rate.at(2, 0, 1.0) == rate.at(9, 6, 1.0) == 1.0


def test_steps_of_the_published_long_tail_teachers() -> None:
    """LDAM-DRW: five epochs of warm-up, a hundredth from epoch 161, a ten-thousandth from 181."""
    rate = schedule(
        name="step",
        epochs=200,
        warmup_epochs=4,
        warmup_factor=0.2,
        per="epoch",
        milestones=(160, 180),
        factors=(0.01, 0.0001),
    )
    found = [rate.at(epoch, 3, 0.1) for epoch in range(200)]
    assert found[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert found[5:160] == [0.1] * 155
    assert found[160:180] == pytest.approx([0.001] * 20)
    assert found[180:] == pytest.approx([0.00001] * 20)


def test_steps_before_the_first_milestone_and_per_step() -> None:
    rate = schedule(name="step", milestones=(5,), factors=(0.5,))
    assert rate.at(0, 0, 1.0) == pytest.approx(0.1)
    assert rate.at(1, 0, 1.0) == pytest.approx(0.55)
    assert rate.at(4, 6, 1.0) == 1.0
    assert rate.at(5, 0, 1.0) == rate.at(9, 6, 1.0) == 0.5


def test_set_reaches_every_group_with_its_own_base() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = parameter_groups(model, lr=0.1, weight_decay=0.05, head=["1"], head_lr_ratio=10)
    optimizer = create_optimizer(
        "sgd", groups, betas=(0.9, 0.999), momentum=0.9, nesterov=True, fused=True
    )
    assert schedule(warmup_epochs=0).set(optimizer, 0, 0) == pytest.approx(0.1)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx(
        {"head_no_decay": 1.0, "head_decay": 1.0, "body_no_decay": 0.1, "body_decay": 0.1}
    )


NAMES = {
    "deit-ti": ("deit_tiny_patch16_224", ["head"]),
    "deit-ti_distillation_token_student_only": ("deit_tiny_distilled_patch16_224", ["head"]),
}


def to_timm(name: str) -> str:
    for theirs, timms in (
        ("layers.", "blocks."),
        ("qkv_transform", "qkv"),
        ("attn.projection", "attn.proj"),
        ("patch_embed.projection", "patch_embed.proj"),
        ("distill_token", "dist_token"),
        ("distill_head", "head_dist"),
    ):
        name = name.replace(theirs, timms)
    return name


@pytest.mark.parametrize(
    "case",
    [case for case in VECTORS["optimizer_groups"] if case["name"] in NAMES],
    ids=lambda case: case["name"],
)
def test_published_groups(case: dict[str, Any]) -> None:
    architecture, head = NAMES[case["name"]]
    model = timm.create_model(architecture, num_classes=100)
    mine = {
        group["name"]: group
        for group in parameter_groups(
            model,
            lr=5e-4,
            weight_decay=0.05,
            no_weight_decay=model.no_weight_decay(),  # type: ignore[operator]  # timm
            head=head,
        )
    }
    for theirs in case["groups"]:
        group = mine[theirs["group"]]
        assert set(group["param_names"]) == {to_timm(name) for name in theirs["names"]}
        assert sum(p.numel() for p in group["params"]) == theirs["elements"]
        assert group["weight_decay"] == theirs["weight_decay"]


@pytest.mark.parametrize("decay_all", [False, True])
def test_published_decay_of_all_parameters(decay_all: bool) -> None:
    """`SGD(model.parameters(), ...)` of LDAM-DRW and PaCo is a step of `decay_all` and no other."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    nn.init.normal_(model.get_parameter("1.bias"))  # a new one is 0, and has nothing to decay
    theirs = copy.deepcopy(model)
    groups = parameter_groups(model, lr=0.1, weight_decay=0.5, decay_all=decay_all, head=["3"])
    optimizers = [
        create_optimizer(
            "sgd", groups, betas=(0.9, 0.999), momentum=0.9, nesterov=False, fused=False
        ),
        torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5),
    ]
    images = torch.randn(5, 3, 3, 3)
    for network, optimizer in zip((model, theirs), optimizers, strict=True):
        network(images).square().sum().backward()
        optimizer.step()
    equal = {
        name: torch.equal(mine, other)
        for (name, mine), other in zip(model.named_parameters(), theirs.parameters(), strict=True)
    }
    decayed = {name for name, same in equal.items() if same}
    assert decayed == (set(equal) if decay_all else {"0.weight", "3.weight"})


def test_both_heads_are_found() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    assert classifier_names(model) == ["head", "head_dist"]
    assert classifier_names(timm.create_model("resnet18", num_classes=3)) == ["fc"]


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = parameter_groups(model, lr=1, weight_decay=1)
    assert group["param_names"] == ["weight"]


def test_layers_have_rates_of_their_own_through_the_whole_schedule() -> None:
    """As timm schedules its `lr_scale`: the factor multiplies the end of the cosine, too."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    decay = 0.7
    expected = timm.optim.create_optimizer_v2(model, lr=0.1, weight_decay=0.05, layer_decay=decay)
    theirs = CosineLRScheduler(
        expected, t_initial=70, lr_min=1e-3, cycle_limit=1, t_in_epochs=False
    )
    groups = parameter_groups(
        model, lr=0.1, weight_decay=0.05, lr_scales=layer_scales(model, decay)
    )
    mine = create_optimizer(
        "adamw", groups, betas=(0.9, 0.999), momentum=0, nesterov=False, fused=False
    )
    rate = schedule(warmup_epochs=0, min_lr=1e-3)
    for step in (0, 20, 69):
        theirs.step_update(step)
        shown = rate.set(mine, *divmod(step, 7))
        by_parameter = [
            {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            for optimizer in (mine, expected)
        ]
        assert by_parameter[0] == pytest.approx(by_parameter[1])
        assert shown == pytest.approx(max(by_parameter[1].values()))


@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "xcit_nano_12_p8_224"),
        *("beit_base_patch16_224", "resnet18", "coat_lite_tiny", "dhvt_micro_patch4", "cvt_13"),
    ],
)
def test_no_parameter_decays_that_timm_exempts(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=3)
    recipe = recipe_from({"model": {"name": name}, "training": {"epochs": 1}})
    guided = GuidedStudent(model, Objective([CrossEntropy()]), compiled=False)
    ours = {
        id(parameter)
        for group in build_optimizer(recipe, guided).param_groups
        if group["weight_decay"] == 0
        for parameter in group["params"]
    }
    exempt: set[str] = getattr(model, "no_weight_decay", set)()
    theirs = param_groups_weight_decay(model, 0.05, no_weight_decay_list=exempt)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    expected = {id(p) for group in theirs if group["weight_decay"] == 0 for p in group["params"]}
    assert {names[i] for i in ours} == {names[i] for i in expected}


def test_patterns_of_names_are_exempt() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    groups = parameter_groups(layer, lr=1.0, weight_decay=0.1, no_weight_decay=["0.*"])
    decayed = [name for group in groups if group["weight_decay"] for name in group["param_names"]]
    assert decayed == ["1.weight"]


@pytest.mark.parametrize("name", ["kron", "lookahead_kronw"])
def test_kron_computes_what_timms_does_and_compiles_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(kron, "has_opt_einsum", True)  # what is this small needs none
    monkeypatch.setattr(kron, "has_dynamo", False)
    theirs = torch.nn.Linear(4, 3)
    mine = copy.deepcopy(theirs)
    groups, again = (parameter_groups(model, lr=0.1, weight_decay=0.05) for model in (mine, theirs))
    expected = create_optimizer_v2([dict(group) for group in again], name, lr=0.1)
    monkeypatch.setattr(kron, "has_dynamo", True)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiles"))
    optimizer = create_optimizer(name, groups, betas=None, momentum=0.9, nesterov=True, fused=False)
    for made, model in ((expected, theirs), (optimizer, mine)):
        torch.manual_seed(0)  # it draws random vectors
        for _ in range(2):
            made.zero_grad()
            model(torch.eye(4)).square().sum().backward()
            made.step()
    assert torch.equal(mine.weight, theirs.weight)
    assert torch.equal(mine.bias, theirs.bias)


def test_kron_without_opt_einsum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kron, "has_opt_einsum", False)
    with pytest.raises(UsageError, match=r"optimizer.name: lookahead_kronc needs opt_einsum"):
        create_optimizer(
            "lookahead_kronc",
            parameter_groups(torch.nn.Linear(4, 3), lr=0.1, weight_decay=0.05),
            betas=None,
            momentum=0.9,
            nesterov=True,
            fused=False,
        )


def test_no_other_optimizer_of_timm_compiles_or_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(
        map(str, list_optimizers(exclude_filters=["bnb*", "fused*", "kron*", "adahessian"]))
    )
    compiled: list[str] = []
    warned: dict[str, list[str]] = {}
    for name in names:
        monkeypatch.setattr(torch, "compile", lambda *_, name=name, **__: compiled.append(name))
        layer = torch.nn.Linear(4, 3)
        groups = parameter_groups(layer, lr=0.1, weight_decay=0.05)
        optimizer = create_optimizer(
            name, groups, betas=None, momentum=0.9, nesterov=True, fused=False
        )
        layer(torch.eye(4)).square().sum().backward()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        warned |= {name: [str(each.message) for each in caught]} if caught else {}
    assert len(names) > 50
    assert compiled == []
    assert warned == {}


@pytest.mark.parametrize("name", ["lion", "muon", "lookahead_lamb"])
def test_an_optimizer_of_timm_makes_timms_steps(tmp_path: Path, name: str) -> None:
    """Two steps, by the factory with the same groups and rates."""
    weight = torch.arange(12.0).view(3, 4) / 10
    models = [torch.nn.Linear(4, 3) for _ in range(2)]
    for model in models:
        torch.nn.init.zeros_(model.bias)
        model.weight.data.copy_(weight)
    groups = parameter_groups(models[0], lr=0.1, weight_decay=0.05)
    ours = create_optimizer(name, groups, betas=None, momentum=0.9, nesterov=True, fused=False)
    theirs = create_optimizer_v2(models[1], name, lr=0.1, weight_decay=0.05)
    for optimizer, model in ((ours, models[0]), (theirs, models[1])):
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.eye(4)).square().sum().backward()
            optimizer.step()
    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(models[0].bias, models[1].bias)
    finished = tiny(tmp_path, "a", optimizer={"name": name, "lr": 1e-3}, training__epochs=2)
    finished.run.results_file.unlink()
    again = tiny(tmp_path, "a", optimizer={"name": name, "lr": 1e-3}, training__epochs=2)
    assert again.results.best == finished.results.best


def test_names_and_arguments_of_optimizers_that_cannot_be(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": "adamv"}, r"unknown optimizer 'adamv'\. Did you mean 'adam'"),
        ({"name": "adahessian"}, "second derivatives"),
        ({"name": "adamw", "args": {"eps": 1e-6}}, "args: adamw takes none"),
    ]
    for section, said in wrong:
        with pytest.raises(UsageError, match=said):
            recipe_from({"model": {"name": "x"}, "training": {"epochs": 1}, "optimizer": section})
    with pytest.raises(UsageError, match=r"optimizer: lion: .*nonsense"):
        tiny(tmp_path, optimizer={"name": "lion", "args": {"nonsense": 1}})
