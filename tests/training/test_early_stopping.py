"""Training that ends early, and the function that is called after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vitrellis
from tests.training.tiny import guided_weights, tiny
from vitrellis.errors import UsageError
from vitrellis.recipe import recipe_from
from vitrellis.runs.results import EpochRow
from vitrellis.runs.verification import verify_run

SETTINGS: dict[str, Any] = {
    "optimizer": {"lr": 1e-12, "weight_decay": 0},  # the first epoch stays the best
    "training__epochs": 9,
    "training__early_stopping_patience": 3,
    "training__checkpoint_minutes": 0,
}


@pytest.mark.parametrize(("eval_every", "epochs"), [(1, 4), (2, 6)])
def test_it_ends_when_no_epoch_was_better(tmp_path: Path, eval_every: int, epochs: int) -> None:
    """By the rule of the docstring: the best epoch is the first that was validated."""
    finished = tiny(tmp_path, training__eval_every=eval_every, **SETTINGS)
    assert finished.results.epochs == epochs
    assert finished.results.last.epoch == epochs - 1
    assert finished.results.best.epoch == eval_every - 1
    assert len(finished.run.read_metrics()) == epochs
    assert verify_run(finished.run).is_good


def test_an_epoch_that_is_better_goes_on(tmp_path: Path) -> None:
    better = {"lr": 3e-3}
    finished = tiny(tmp_path, **SETTINGS | {"optimizer": better, "training__epochs": 4})
    assert finished.results.epochs == 4


class Stop(Exception):
    """As Optuna's TrialPruned."""


def run(tmp_path: Path, name: str, on_epoch_end: Any = None) -> Any:
    images = torch.randint(0, 255, (48, 3, 28, 28), generator=torch.Generator().manual_seed(0))
    recipe = recipe_from(
        {
            "model": {"name": "vit_micro_patch7_28"},
            "input": {"img_size": 28},
            "training": {"epochs": 9, "batch_size": 12, "early_stopping_patience": 3},
            "optimizer": {"lr": 1e-4},
            "machine": {"accelerator": "cpu", "threads": 1},
        }
    )
    source = vitrellis.from_tensors(images.byte(), torch.arange(48) % 3)
    out = tmp_path / name
    return vitrellis.train(recipe, source=source, out=out, on_epoch_end=on_epoch_end)


def test_a_run_that_a_function_ended_resumes_bit_by_bit(tmp_path: Path) -> None:
    seen: list[EpochRow] = []

    def stop_in_second(row: EpochRow) -> None:
        seen.append(row)
        if row.epoch == 1:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, "run", stop_in_second)
    assert [row.epoch for row in seen] == [0, 1]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["progress"]["epoch"] == 2  # though no checkpoint was due
    resumed = run(tmp_path, "run", seen.append)
    whole = run(tmp_path, "whole")
    assert resumed.results.epochs == whole.results.epochs < 9
    curve = {row.epoch: row.val_loss for row in whole.run.read_metrics()}
    assert {row.epoch: row.val_loss for row in seen} == curve
    for name, value in guided_weights(resumed).items():
        assert torch.equal(value, guided_weights(whole)[name])


def test_it_needs_validation_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"early_stopping_patience: there are no validation"):
        tiny(tmp_path, data__val_fraction=0, **SETTINGS)
