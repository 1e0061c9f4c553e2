"""Runs on a device without float64 train, resume and evaluate there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.simulated_device import DEVICE, OnDevice, simulated_device
from tests.training.tiny import tiny


def test_the_device_refuses_what_apples_gpus_refuse() -> None:
    with simulated_device():
        ones = torch.ones(3, 4).to(DEVICE)
        assert isinstance(ones, OnDevice)
        layer = torch.nn.Linear(4, 2).to(DEVICE)
        loss = torch.nn.functional.cross_entropy(layer(ones), torch.zeros(3).long().to(DEVICE))
        loss.backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.device == DEVICE
        for wrong in (
            loss.double,
            lambda: torch.ones(2, dtype=torch.float64).to(DEVICE),
            lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE),
        ):
            with pytest.raises(TypeError, match="float64"):
                wrong()
        with pytest.raises(RuntimeError, match="same device"):
            torch.add(ones, torch.ones(3, 4))


@pytest.mark.parametrize(
    "settings",
    [
        {"augmentation": {"crop": "resized", "rand_augment": "rand-m9-mstd0.5", "cutmix": 1.0}},
        {
            "objective": {"kd": {"weight": 1.0}, "cross_entropy": {"loss": "logit_adjustment"}},
            "teacher": {"model": "cifar_resnet8", "offline": True},
            "deferred": {"share": 0.5},
            "data": {"val_fraction": 0.25, "sampler": "square_root"},
        },
    ],
    ids=["augmented", "guided"],
)
def test_a_run_trains_as_on_a_device_that_has_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    with simulated_device():
        simulated = tiny(tmp_path, "simulated", **settings)
    usual = tiny(tmp_path, "usual", **settings)
    for row, expected in zip(simulated.run.read_metrics(), usual.run.read_metrics(), strict=True):
        assert row.loss == pytest.approx(expected.loss, rel=1e-5)
        assert row.val_loss == pytest.approx(expected.val_loss, rel=1e-5)
        assert row.val_top1 == expected.val_top1
