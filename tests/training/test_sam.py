"""Sharpness-aware minimization against its definition, and what must not change with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.command import assert_same_weights
from tests.training.stopped import signal_after
from tests.training.tiny import guided_weights, tiny
from vitrellis.errors import UsageError
from vitrellis.recipe import load_recipe
from vitrellis.training.interrupts import Interrupted
from vitrellis.training.sam import SharpnessAware, plain_gradient


def quadratic(model: nn.Linear, curvature: Tensor) -> Callable[[], None]:
    """Half of `w A w`, whose gradient is `A w`."""

    def backward() -> None:
        w = model.weight.squeeze(0)
        (w @ curvature @ w / 2).backward()

    return backward


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_gradient_of_a_quadratic_is_taken_uphill(rho: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 1, bias=False).double()
    root = torch.randn(5, 5, dtype=torch.float64)
    curvature = root @ root.T
    w = model.weight.detach().clone().squeeze(0)
    uphill = curvature @ w / (curvature @ w).norm()
    SharpnessAware([model], [(0, rho)])(quadratic(model, curvature), 0)
    assert model.weight.grad is not None
    expected = curvature @ (w + rho * uphill)
    torch.testing.assert_close(model.weight.grad.squeeze(0), expected, rtol=1e-10, atol=0)
    assert torch.equal(model.weight.squeeze(0), w)


def test_length_is_taken_over_all_parameters_together() -> None:
    """Of `3 a + 4 b²/2` at b = 1, the gradient is (3, 4): b moves by 4/5 of rho."""
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    module = nn.ParameterList([a, b])
    SharpnessAware([module], [(0, 0.5)])(lambda: (3 * a + 2 * b**2).backward(), 0)
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.item() == pytest.approx(3)
    assert b.grad.item() == pytest.approx(4 * (1 + 0.5 * 4 / 5))


def test_a_scaled_loss_is_left_by_the_same_way() -> None:
    """As half precision scales it."""
    gradients = []
    for scale in (1.0, 2.0**16):
        torch.manual_seed(0)
        model = nn.Linear(5, 1, bias=False).double()
        plain = quadratic(model, scale * torch.diag(torch.arange(1.0, 6.0).double()))
        SharpnessAware([model], [(0, 0.5)])(plain, 0)
        assert model.weight.grad is not None
        gradients.append(model.weight.grad / scale)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_weights_survive_a_scale_that_overflows() -> None:
    model = nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    seen = []

    def overflow() -> None:
        seen.append(model.weight.detach().clone())
        (model.weight * torch.inf).sum().backward()

    SharpnessAware([model], [(0, 0.5)])(overflow, 0)
    assert len(seen) == 2
    assert all(torch.equal(weights, before) for weights in [*seen, model.weight])
    assert model.weight.grad is not None
    assert not model.weight.grad.isfinite().any()  # so that the scaler leaves the step out


def test_parameters_without_a_gradient_stay_without_one() -> None:
    module = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    frozen = nn.Linear(2, 1).requires_grad_(False)
    images = torch.ones(1, 2)
    SharpnessAware([module, frozen], [(0, 0.5)])(
        lambda: (module["used"](images) + frozen(images)).square().sum().backward(), 0
    )
    assert all(p.grad is not None for p in module["used"].parameters())
    assert all(p.grad is None for p in [*module["unused"].parameters(), *frozen.parameters()])


def test_a_minimum_is_left_alone() -> None:
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    SharpnessAware([model], [(0, 0.5)])(quadratic(model, torch.eye(3)), 0)
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad, torch.zeros(1, 3))


def test_running_statistics_are_those_of_one_plain_pass() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3)
    passes: list[tuple[dict[str, Tensor], list[Tensor]]] = []
    for gradient in (plain_gradient, None):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        begun_with: list[Tensor] = []

        def backward(model: nn.Sequential = model, seen: list[Tensor] = begun_with) -> None:
            seen.append(model.get_buffer("1.running_mean").clone())
            model(images).square().mean().backward()

        (gradient or SharpnessAware([model], [(0, 1.0)]))(backward, 0)
        passes.append((model.state_dict(), begun_with))
    (plain, _), (sharp, begun_with) = passes
    assert plain.keys() == sharp.keys()
    assert all(torch.equal(plain[name], sharp[name]) for name in plain)
    assert len(begun_with) == 2
    assert torch.equal(*begun_with)


def test_radius_moves_over_the_epochs() -> None:
    module = nn.Linear(1, 1)
    sam = SharpnessAware([module], [(0, 0.0), (2, 0.1), (5, 0.5)])
    assert [sam.rho(epoch) for epoch in range(7)] == [0, 0, 0.1, 0.1, 0.1, 0.5, 0.5]
    calls = []
    for epoch in (1, 2):
        sam(lambda: calls.append(module(torch.ones(1)).sum().backward()), epoch)
    assert len(calls) == 1 + 2


def test_radius_zero_is_the_base_optimizer(tmp_path: Path) -> None:
    base = guided_weights(tiny(tmp_path, "base"))
    sam = guided_weights(tiny(tmp_path, "sam", optimizer__sam={"rho": 0.0}))
    assert base.keys() == sam.keys()
    assert all(torch.equal(base[name], sam[name]) for name in base)
    away = guided_weights(tiny(tmp_path, "away", optimizer__sam={"rho": 0.1}))
    assert any((base[name] - away[name]).abs().max() > 1e-4 for name in base)


def test_radius_of_next_to_nothing_draws_the_same_masks(tmp_path: Path) -> None:
    """With other dropout masks in the second pass, the runs would part at once."""
    settings: dict[str, Any] = {
        "model": {"name": "vit_micro_patch7_28", "args": {"drop_rate": 0.5}},
        "optimizer__name": "sgd",
        "optimizer__lr": 0.05,
    }
    base = guided_weights(tiny(tmp_path, "base", **settings))
    sam = guided_weights(tiny(tmp_path, "sam", **settings, optimizer__sam={"rho": 1e-7}))
    for name, value in base.items():
        torch.testing.assert_close(sam[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.sam.rho=-1"], r"optimizer\.sam\.rho"),
        (["optimizer.sam.rho=[[1, 0.1]]"], "the first must be 0"),
        (["optimizer.sam.rho=[[0, 0.1], [9, 0.1], [9, 0.2]]"], "each later than"),
        (["optimizer.sam.rho=[]"], r"optimizer\.sam\.rho"),
        (["optimizer.sam.rho=[[0, 0.1], [999, 0.2]]"], "epoch 999 is too late for training.epochs"),
    ],
)
def test_what_cannot_be_is_refused_with_the_recipe(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe("demo-vit-alone", words)


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """With batch norms, parts of batches and clipping, while rho moves."""
    settings: dict[str, Any] = {
        "model": {"name": "cifar_resnet8"},
        "training": {"epochs": 4, "batch_size": 12, "clip_grad": 1.0, "accumulate": 2},
        "optimizer__sam": {"rho": [[0, 0.05], [2, 0.1]]},
    }
    whole = tiny(tmp_path, "whole", **settings)
    for epoch, step in ((0, 2), (2, 1)):
        with signal_after(epoch, step), pytest.raises(Interrupted, match=f"after step {step} of 3"):
            tiny(tmp_path, "stopped", **settings)
    stopped = tiny(tmp_path, "stopped", **settings)
    assert_same_weights(whole.run.path, stopped.run.path)
