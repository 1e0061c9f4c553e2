"""Costs of models against published counts, and against counting by hand."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from vitrellis.analysis.cost import activation_bytes, count_macs, measure, timed
from vitrellis.models import create_model

CPU = torch.device("cpu")


def build(name: str, num_classes: int, size: int, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=num_classes, img_size=size, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "gmacs"),
    [
        ("dhvt_tiny_cifar_patch4", 100, 32, 0.388),
        ("dhvt_small_cifar_patch2", 100, 32, 6.195),
        ("dhvt_tiny_domain_patch16", 345, 224, 1.358),
        ("dhvt_small_imagenet_patch16", 1000, 224, 5.033),
        ("deit_tiny_distilled_patch16_224", 100, 224, 1.261),
        ("cifar_resnet32", 10, 32, 0.0689),
    ],
)
def test_published_multiply_adds(name: str, num_classes: int, size: int, gmacs: float) -> None:
    kwargs = {"shortcut": "pad"} if name == "cifar_resnet32" else {}
    macs = count_macs(build(name, num_classes, size, **kwargs), (3, size, size))
    digits = 4 if gmacs < 0.1 else 3
    assert round(macs / 1e9, digits) == gmacs


@pytest.mark.parametrize(
    ("keep_rate", "fuse", "gmacs"),
    [(1.0, True, 4.599), (0.9, True, 4.022), (0.7, True, 3.029), (0.5, False, 2.282)],
)
def test_multiply_adds_of_pruned_models(keep_rate: float, fuse: bool, gmacs: float) -> None:
    name = "evit_deit_small_patch16_224"
    model = build(name, 1000, 224, keep_rate=keep_rate, fuse_token=fuse)
    assert round(count_macs(model, (3, 224, 224)) / 1e9, 3) == pytest.approx(gmacs, abs=0.002)


def test_counting_leaves_the_model_where_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).train()
    assert count_macs(model, (2, 8, 8)) == 36 * 4 * 2 * 9 + 4 * 36 * 5
    assert model.training
    assert {parameter.device for parameter in model.parameters()} == {CPU}


def test_what_is_kept_for_the_backward_pass() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(100, 50, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu()

    images = torch.randn(8, 100)
    # the input of the layer and the output of the rectifier; the mean of squares keeps the latter
    assert activation_bytes(Twice(), images) == pytest.approx(4 * (100 + 50), rel=0.05)


def test_timing_is_warmed_up_and_limited() -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.01)

    timing = timed(work, CPU, repeats=5, seconds=10)
    assert len(calls) == 2 + 5
    assert 0.01 <= timing.fastest <= timing.median <= timing.slowest
    timed(work, CPU, repeats=100, seconds=0)
    assert len(calls) == 7 + 2 + 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["vit_micro_patch7_28", "deit_tiny_distilled_patch16_224"])
def test_a_measurement(name: str, precision: str) -> None:
    size = 28 if "28" in name else 32
    kwargs = {"depth": 1} if "deit" in name else {}
    model = create_model(name, num_classes=3, img_size=size, **kwargs)  # type: ignore[arg-type]
    cost = measure(
        model,
        shape=(3, size, size),
        batch_size=4,
        precision=precision,  # type: ignore[arg-type]
        repeats=3,
        seconds=0,
    )
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.peak_bytes is None
    for timing in (cost.latency, cost.forward, cost.step):
        assert 0 < timing.fastest <= timing.median <= timing.slowest
    assert all(parameter.grad is None for parameter in model.parameters())
