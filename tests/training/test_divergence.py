"""A run that has diverged is refused: it is not scored, and the last good weights stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import vitrellis
from tests.training.tiny import tiny
from vitrellis.errors import VitrellisError
from vitrellis.objectives import Signals, Term
from vitrellis.recipe import recipe_from
from vitrellis.runs.checksums import seal_zip
from vitrellis.runs.directory import RunDirectory

STEPS = 3
"""Steps in an epoch of `tiny`: 36 images in batches of 12."""
NAN = float("nan")


@contextmanager
def bad_weight(after: int) -> Iterator[None]:
    """Puts NaN into one weight after an optimizer step, counted from 1."""
    steps = []

    def spoil(optimizer: torch.optim.Optimizer, *_: object) -> None:
        steps.append(1)
        if len(steps) == after:
            for group in optimizer.param_groups:
                for name, value in zip(group["param_names"], group["params"], strict=True):
                    if name == "student.head.weight":
                        value.data[0, 0] = NAN

    handle = register_optimizer_step_post_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def bad_running_statistics(after: int) -> Iterator[None]:
    """Puts NaN into `running_var`, which a step in train mode does not read, during a step."""
    seen = []
    forward = nn.BatchNorm2d.forward

    def spoiled(self: nn.BatchNorm2d, values: Tensor) -> Tensor:
        normed: Tensor = forward(self, values)
        if self.training:
            seen.append(self)
            if seen.count(seen[0]) == after and self.running_var is not None and self is seen[0]:
                self.running_var.data[0] = NAN
        return normed

    with mock.patch.object(nn.BatchNorm2d, "forward", spoiled):
        yield


@contextmanager
def bad_average(after: int) -> Iterator[None]:
    """Puts infinity into the moving average after a step; the weights themselves stay good."""
    update, steps = ModelEmaV3.update, []

    def spoiled(self: ModelEmaV3, *arguments: Any, **named: Any) -> None:
        update(self, *arguments, **named)
        steps.append(1)
        if len(steps) == after:
            self.module.head.bias.data[1] = float("inf")

    with mock.patch.object(ModelEmaV3, "update", spoiled):
        yield


@pytest.mark.parametrize(
    ("fault", "settings", "named"),
    [
        (bad_weight, {}, r"head.weight \(1 NaN of [\d,]+ values\) of the student"),
        (
            bad_running_statistics,
            {"model": {"name": "cifar_resnet8"}},
            r"bn1.running_var \(1 NaN of 16 values\) of the student",
        ),
        (
            bad_average,
            {"training__ema": 0.9},
            r"head.bias \(1 infinite of 3 values\) of the moving average",
        ),
    ],
    ids=["weight", "running statistics", "moving average"],
)
def test_the_tensor_is_named_and_the_last_good_weights_stay(
    tmp_path: Path, fault: Callable[..., Any], settings: dict[str, Any], named: str
) -> None:
    """It happens in the last step of the second epoch, whose losses are all finite."""
    with fault(after=2 * STEPS), pytest.raises(VitrellisError, match=named) as caught:
        tiny(tmp_path, **settings, training__epochs=4, training__checkpoint_minutes=0)
    assert "in epoch 2" in str(caught.value)
    run = RunDirectory(tmp_path / "run")
    assert [row.epoch for row in run.read_metrics()] == [0]  # the second is not scored
    assert not run.last_model.exists()
    assert not run.results_file.exists()
    kept = load_file(run.best_model / "model.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    for file in (run.last_checkpoint, run.best_checkpoint):
        state = torch.load(file, weights_only=True)
        for part in ("guided", "ema"):
            tensors = [v for v in state.get(part, {}).values() if isinstance(v, Tensor)]
            assert all(value.isfinite().all() for value in tensors)


def test_a_weight_that_is_bad_before_a_step_is_named_with_the_loss(tmp_path: Path) -> None:
    with bad_weight(after=1), pytest.raises(VitrellisError) as caught:
        tiny(tmp_path)
    message = str(caught.value)
    assert "the loss is nan in epoch 1, step 2: term cross_entropy is not finite" in message
    assert "of the student: its weight head.weight (1 NaN of" in message
    assert "Last good checkpoint: none yet" in message


def test_the_best_checkpoint_is_the_last_good_one_where_no_other_is_due(tmp_path: Path) -> None:
    with bad_weight(after=STEPS + 1), pytest.raises(VitrellisError) as caught:
        tiny(tmp_path)
    run = RunDirectory(tmp_path / "run")
    assert not run.last_checkpoint.exists()
    assert f"Last good checkpoint: {run.best_checkpoint} (" in str(caught.value)


class Infinite(Term):
    """Becomes infinite in the second epoch, without any fault of the model."""

    def __init__(self) -> None:
        super().__init__("infinite", weight=1.0)

    def forward(self, signals: Signals) -> Tensor:
        return signals.logits.sum() * 0 + (torch.inf if signals.epoch else 0.0)


def test_an_infinite_term_is_named(tmp_path: Path) -> None:
    pixels = torch.randint(0, 255, (12, 3, 28, 28), dtype=torch.uint8)
    recipe = recipe_from(
        {
            "data": {"val_fraction": 0},
            "input": {"img_size": 28},
            "model": {"name": "vit_micro_patch7_28"},
            "training": {"epochs": 2, "batch_size": 12},
            "machine": {"accelerator": "cpu", "threads": 1},
        }
    )
    source = vitrellis.from_tensors(pixels, torch.arange(12) % 3)
    with pytest.raises(VitrellisError) as caught:
        vitrellis.train(recipe, source=source, out=tmp_path / "run", terms=[Infinite()])
    assert "the loss is inf in epoch 2, step 1: term infinite" in str(caught.value)
    assert "all weights and all outputs of the student are finite" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("guided", "student.head.bias", "head.bias (1 NaN of 3 values) of the student"),
        ("ema", "head.bias", "head.bias (1 NaN of 3 values) of the moving average"),
        ("optimizer", "exp_avg_sq", "exp_avg_sq of student."),
    ],
)
def test_a_checkpoint_with_nan_is_not_continued(
    tmp_path: Path, part: str, name: str, message: str
) -> None:
    finished = tiny(tmp_path, training__epochs=1, training__ema=0.9)
    file = finished.run.last_checkpoint
    state = torch.load(file, weights_only=True)
    values = state[part] if part != "optimizer" else state[part]["state"][0]
    values[name].flatten()[0] = NAN
    torch.save(state, file)
    seal_zip(file)
    finished.run.results_file.unlink()
    with pytest.raises(VitrellisError) as caught:
        tiny(tmp_path, training__epochs=1, training__ema=0.9)
    assert str(caught.value).startswith(f"{file}: {message}")
