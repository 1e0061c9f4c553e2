"""The learning rate at every update of each published recipe, by the published code's own rule."""

from __future__ import annotations

import math

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from vitrellis.assembly.build import build_learning_rate
from vitrellis.recipe import effective_lr, load_recipe

STEPS = 7


def rate(name: str, epoch: int, step: int = 0) -> float:
    recipe = load_recipe(name)
    return build_learning_rate(recipe, STEPS).at(epoch, step, effective_lr(recipe))


def timms(
    base: float, *, epochs: int, lr_min: float, warmup: int, start: float
) -> CosineLRScheduler:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    return CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=lr_min, warmup_t=warmup, warmup_lr_init=start
    )


@pytest.mark.parametrize("name", ["imagenet-lt-resnet50-paco", "inaturalist-2018-resnet50-paco"])
def test_paco_on_large_sets(name: str) -> None:
    """`adjust_learning_rate` of the published paco_lt.py."""
    for epoch in range(400):
        share = 0.5 * (1 + math.cos(math.pi * (epoch - 10 + 1) / (400 - 10 + 1)))
        expected = 0.02 / 10 * (epoch + 1) if epoch < 10 else 0.02 * share
        assert rate(name, epoch, 3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["cifar10-lt-resnet32-paco", "cifar100-lt-resnet32-paco"])
def test_paco_on_cifar(name: str) -> None:
    """`adjust_learning_rate` of the published paco_cifar.py, but for its eleventh epoch."""
    for epoch in range(400):
        if epoch <= 10:
            expected = 0.05 / 10 * (epoch + 1)
        else:
            expected = 0.05 * (0.01 if epoch > 360 else 0.1 if epoch > 320 else 1)
        if epoch != 10:
            assert rate(name, epoch, 3) == pytest.approx(expected, rel=1e-9), epoch
    assert rate(name, 10) == 0.05


@pytest.mark.parametrize("name", ["cifar10-lt-resnet32", "cifar100-lt-resnet32-ce-sam"])
def test_ldam(name: str) -> None:
    """`adjust_learning_rate` of the published cifar_train.py, which counts epochs from 1."""
    for epoch in range(200):
        counted = epoch + 1
        factor = (
            counted / 5
            if counted <= 5
            else 0.0001
            if counted > 180
            else 0.01
            if counted > 160
            else 1
        )
        assert rate(name, epoch, 2) == pytest.approx(0.1 * factor, rel=1e-9), epoch


@pytest.mark.parametrize(
    ("name", "base", "lr_min", "warmup", "start"),
    [("cifar100-deit-ti-lg", 5e-4, 5e-6, 20, 5e-7), ("cifar100-resnet56", 0.1, 0, 0, 0)],
)
def test_locality_guidance(
    name: str, base: float, lr_min: float, warmup: int, start: float
) -> None:
    """`construct_scheduler` of the published code, stepped with the number of the epoch."""
    schedule = timms(base, epochs=300, lr_min=lr_min, warmup=warmup, start=start)
    for epoch in range(300):
        schedule.step(epoch)
        expected = schedule.optimizer.param_groups[0]["lr"]
        assert rate(name, epoch, 5) == pytest.approx(expected, rel=1e-9, abs=1e-15), epoch


@pytest.mark.parametrize(
    ("name", "base", "epochs"),
    [("cifar100-lt-deit-b", 2.5e-4, 1200), ("imagenet-lt-deit-b", 5e-4, 1400)],
)
def test_deit_lt_moves_with_every_update(name: str, base: float, epochs: int) -> None:
    """`lr_scheduler.step(epoch + data_iter_step / len(data_loader))` of the published engine.py."""
    schedule = timms(base, epochs=epochs, lr_min=1e-5, warmup=5, start=1e-6)
    for epoch in (0, 1, 4, 5, 6, 100, epochs // 2, epochs - 1):
        for step in range(STEPS):
            schedule.step(epoch + step / STEPS)  # type: ignore[arg-type]
            expected = schedule.optimizer.param_groups[0]["lr"]
            assert rate(name, epoch, step) == pytest.approx(expected, rel=1e-9), (epoch, step)


@pytest.mark.parametrize(("name", "base"), [("cifar100-dhvt-t", 1e-3), ("cifar100-dhvt-s", 5e-4)])
def test_dhvt_is_an_epoch_ahead_of_the_published(name: str, base: float) -> None:
    """The published main.py steps with the number of the epoch that is over."""
    schedule = timms(base, epochs=300, lr_min=1e-5, warmup=5, start=1e-6)
    for epoch in range(300):
        schedule.step(epoch)
        expected = schedule.optimizer.param_groups[0]["lr"]
        assert rate(name, epoch) == pytest.approx(expected, rel=1e-9), epoch
