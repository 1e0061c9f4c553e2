"""The learning rate at every update of each published recipe, by the published code's own rule."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

import vitrellis
from vitrellis.assembly.build import Place, build_train_loader, preprocessing_of
from vitrellis.assembly.optimization import build_learning_rate
from vitrellis.data.loader import TrainLoader
from vitrellis.data.sources import Source
from vitrellis.recipe import effective_lr, load_recipe
from vitrellis.training.optimizers import LearningRate


@cache
def blank_images(count: int) -> Source:
    images = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    return vitrellis.from_tensors(images, torch.arange(count) % 10)


def loader(name: str, count: int) -> TrainLoader:
    """The training batches of a recipe, of so many images."""
    recipe = load_recipe(name)
    shown = preprocessing_of(recipe, 3, ([0.5] * 3, [0.5] * 3))
    return build_train_loader(recipe, blank_images(count), shown, Place(torch.device("cpu")))


@cache
def rates(name: str, count: int = 1000) -> tuple[LearningRate, float]:
    recipe = load_recipe(name)
    return build_learning_rate(recipe, loader(name, count)), effective_lr(recipe)


def rate(name: str, epoch: int, step: int = 0) -> float:
    schedule, base = rates(name)
    return schedule.at(epoch, step, base)


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
    """`adjust_learning_rate` of the published paco_cifar.py."""
    for epoch in range(400):
        if epoch <= 10:
            expected = 0.05 / 10 * (epoch + 1)
        else:
            expected = 0.05 * (0.01 if epoch > 360 else 0.1 if epoch > 320 else 1)
        assert rate(name, epoch, 3) == pytest.approx(expected, rel=1e-9), epoch


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


def published_updates(count: int, devices: int, epoch: int) -> list[tuple[float, int]]:
    """For each update of DeiT-LT's published code, the time of its rate and its images.

    `RASampler`, the loader (128 images, none dropped), and `train_one_epoch` (engine.py) with
    `accum_iter` 4.
    """
    per_device = math.floor(count // 256 * 256 / devices)
    iterations = math.ceil(per_device / 128)
    updates, now, images = [], 0.0, 0
    for i in range(iterations):
        is_last = i == iterations - 1
        if i % 4 == 0 or is_last:
            now = epoch + i / iterations
        images += devices * min(128, per_device - 128 * i)
        if (i + 1) % 4 == 0 or is_last:
            updates.append((now, images))
            images = 0
    return updates


@pytest.mark.parametrize(
    ("name", "count", "num_updates"),
    [
        ("cifar100-lt-deit-b", 10_847, 11),  # imbalance factor 100
        ("cifar100-lt-deit-b", 12_608, 13),  # 50; the last update has one iteration
        ("cifar10-lt-deit-b", 12_406, 12),  # all updates are full
        ("imagenet-lt-deit-b", 115_846, 57),
        ("inaturalist-2018-deit-b", 437_513, 214),  # the last iteration has half of its images
    ],
)
def test_deit_lt_updates_as_published(name: str, count: int, num_updates: int) -> None:
    """As many updates, of as many images, and at each the rate of timm's scheduler."""
    recipe, batches = load_recipe(name), loader(name, count)
    schedule, base = rates(name, count)
    epochs = recipe.training.epochs
    theirs = timms(base, epochs=epochs, lr_min=1e-5, warmup=5, start=1e-6)
    devices = recipe.training.batch_size // 512
    for epoch in (0, 1, 4, 5, 6, 100, epochs // 2, epochs - 1):
        updates = published_updates(count, devices, epoch)
        assert batches.steps_per_epoch == len(updates) == num_updates
        assert batches.images_per_epoch == sum(images for _, images in updates)
        for step, (now, images) in enumerate(updates):
            first = step * batches.batch_size
            assert min(batches.images_per_epoch - first, batches.batch_size) == images
            theirs.step(now)  # type: ignore[arg-type]
            expected = theirs.optimizer.param_groups[0]["lr"]
            assert schedule.at(epoch, step, base) == pytest.approx(expected, rel=1e-9), (
                epoch,
                step,
            )


@pytest.mark.parametrize(("name", "base"), [("cifar100-dhvt-t", 1e-3), ("cifar100-dhvt-s", 5e-4)])
def test_dhvt_is_an_epoch_ahead_of_the_published(name: str, base: float) -> None:
    """The published main.py steps with the number of the epoch that is over."""
    schedule = timms(base, epochs=300, lr_min=1e-5, warmup=5, start=1e-6)
    for epoch in range(300):
        schedule.step(epoch)
        expected = schedule.optimizer.param_groups[0]["lr"]
        assert rate(name, epoch) == pytest.approx(expected, rel=1e-9), epoch
