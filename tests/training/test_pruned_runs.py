"""Runs with token pruning: the rates of training, validation and export, and resuming."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

import vitrellis
from tests.training.command import FEW_IMAGES, TINY, assert_same_weights, run
from tests.training.stopped import signal_after
from tests.training.tiny import guided_weights, tiny
from vitrellis.errors import UsageError
from vitrellis.export.timm_folder import write_timm
from vitrellis.models.evit import EViTDistilled
from vitrellis.models.pruned_dhvt import PrunedDHVT
from vitrellis.models.support.token_reduction import TokenReduction
from vitrellis.training import trainer
from vitrellis.training.interrupts import Interrupted
from vitrellis.training.validation import validation_figures

PRUNING: dict[str, Any] = {
    "keep_rate": 0.5,
    "from_epoch": 1,
    "until_epoch": 3,
    "layers": [1, 2],
}
RUN: dict[str, Any] = {"pruning": PRUNING, "training__epochs": 5}
LAST_RATES = [
    1.0,
    *(0.5 + 0.25 * (1 + math.cos(math.pi * step / 6)) for step in (2, 5)),
    0.5,
    0.5,
]
"""The rates of the last of the three steps of each epoch, by the published formula."""


def keep_rates(model: torch.nn.Module) -> tuple[float, ...]:
    assert isinstance(model, TokenReduction)
    return model.keep_rate


def test_the_log_has_the_rates_and_the_exported_models_prune(tmp_path: Path) -> None:
    finished = tiny(tmp_path, **RUN)
    rows = finished.run.read_metrics()
    assert [row.keep_rate for row in rows] == pytest.approx(LAST_RATES)
    assert finished.results.best.epoch in (3, 4)  # an epoch with all tokens is no candidate
    for folder in (finished.run.best_model, finished.run.last_model):
        written = json.loads((folder / "config.json").read_text())
        assert written["vitrellis"]["model_args"] == {
            "keep_rate": 0.5,
            "drop_layers": [1, 2],
            "fuse_token": True,
        }
        assert "keep_rate" not in written["model_args"]  # timm's ViT knows no such argument
        model = vitrellis.load_exported(folder).model
        assert keep_rates(model) == (1.0, 0.5, 0.5, 1.0)


def test_a_log_without_pruning_has_no_rate(tmp_path: Path) -> None:
    finished = tiny(tmp_path)
    assert all("keep_rate" not in row.to_json() for row in finished.run.read_metrics())


def test_a_schedule_that_keeps_all_changes_nothing(tmp_path: Path) -> None:
    plain = guided_weights(tiny(tmp_path, "plain"))
    kept = tiny(tmp_path, "kept", pruning={"keep_rate": 1.0, "layers": [1], "until_epoch": 1})
    for name, value in guided_weights(kept).items():
        assert torch.equal(value, plain[name]), name


@pytest.mark.parametrize("ema", [None, 0.9])
def test_validation_has_the_rate_of_the_moment(tmp_path: Path, ema: float | None) -> None:
    """Of the student or of the moving average, whichever is evaluated."""
    seen = []

    def watched(fabric: Any, model: torch.nn.Module, loader: Any) -> dict[str, float]:
        seen.append(keep_rates(model)[1])
        return validation_figures(fabric, model, loader)

    with mock.patch.object(trainer, "validation_figures", watched):
        finished = tiny(tmp_path, **RUN, training__ema=ema)
    assert seen == pytest.approx(LAST_RATES)
    folders = [finished.run.last_model]
    folders += [finished.run.last_model_without_ema] if ema is not None else []
    for folder in folders:
        assert keep_rates(vitrellis.load_exported(folder).model) == (1.0, 0.5, 0.5, 1.0)


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_that_is_stopped_while_the_rate_falls_ends_with_the_same_bits(
    tmp_path: Path, step: int
) -> None:
    """Within an epoch, and after its last step, but before it is validated."""
    settings = RUN | {"training__ema": 0.9, "optimizer__sam": {"rho": 0.05}}
    whole = tiny(tmp_path, "whole", **settings)
    with signal_after(1, step), pytest.raises(Interrupted, match="in epoch 2 of 5"):
        tiny(tmp_path, "stopped", **settings)
    stopped = tiny(tmp_path, "stopped", **settings)
    assert_same_weights(whole.run.path, stopped.run.path)
    mine, theirs = whole.run.read_metrics(), stopped.run.read_metrics()
    assert [row.keep_rate for row in mine] == [row.keep_rate for row in theirs]
    assert [row.val_loss for row in mine] == [row.val_loss for row in theirs]


def test_a_run_that_lacks_only_its_last_model_writes_it_as_trained(tmp_path: Path) -> None:
    finished = tiny(tmp_path, **RUN)
    config = finished.run.last_model / "config.json"
    before = config.read_text()
    config.unlink()
    (finished.run.path / "results.json").unlink()
    again = tiny(tmp_path, **RUN)
    assert (again.run.last_model / "config.json").read_text() == before
    mine, theirs = (load_file(f.run.last_model / "model.safetensors") for f in (finished, again))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_dhvt_learns_with_fewer_tokens_and_evaluates_as_it_learned(tmp_path: Path) -> None:
    """Its batch norms have statistics of the tokens that were left."""
    args = {"name": "dhvt_micro_patch4", "args": {"patch_size": 8, "depth": 4}}
    finished = tiny(tmp_path, **RUN, model=args)
    model = vitrellis.load_exported(finished.run.last_model).model
    assert isinstance(model, PrunedDHVT)
    assert keep_rates(model) == (1.0, 0.5, 0.5, 1.0)
    kept = model.kept_positions(torch.randn(2, 3, 28, 28))
    assert [positions.shape[1] for positions in kept] == [16, 9, 6, 6]
    assert finished.results.best.val_top1 is not None
    assert finished.results.best.val_top1 > 0.9  # coloured squares


def test_a_distilled_student_prunes_and_keeps_its_two_tokens(tmp_path: Path) -> None:
    said = run(
        *("train", "demo", *TINY, FEW_IMAGES, "--out", "runs/distilled"),
        "objective={kd: null, locality: null, hard: {head: distillation}}",
        "model.name=deit_tiny_distilled_patch16_224",
        "model.args={embed_dim: 24, depth: 3, num_heads: 3, patch_size: 7}",
        "pruning={keep_rate: 0.4, layers: [0, 1]}",
        cwd=tmp_path,
    )
    assert "layers 0, 1 keep 0.4 of the tokens" in said
    assert "keep 0.400" in said
    model = vitrellis.load_exported(tmp_path / "runs" / "distilled" / "last").model
    assert isinstance(model, EViTDistilled)
    kept = model.kept_positions(torch.randn(2, 1, 28, 28))
    assert [positions.shape[1] for positions in kept] == [8, 5, 5]  # 7 of 16 and one fused
    tokens = model.forward_features(torch.randn(2, 1, 28, 28))
    assert tokens.shape[1] == 2 + 5


def test_a_student_that_cannot_prune_is_refused_before_its_teacher_is_trained(
    tmp_path: Path,
) -> None:
    said = run(
        *("train", "demo", *TINY, FEW_IMAGES, "--out", "runs/refused"),
        *("model.name=cifar_resnet8", "pruning.layers=[1]"),
        cwd=tmp_path,
        code=2,
    )
    assert "cifar_resnet8: tokens cannot be left out" in said
    assert not (tmp_path / "runs" / "teachers").exists()


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no layer 9, only 0 to 3.*pruning\.layers"):
        tiny(tmp_path, pruning={"layers": [1, 9]})


def test_timm_is_given_no_model_that_it_would_read_unpruned(tmp_path: Path) -> None:
    tiny(tmp_path, pruning={"keep_rate": 0.5, "layers": [1]}, training__epochs=1)
    trained = vitrellis.load_exported(tmp_path / "run" / "last")
    with pytest.raises(UsageError, match="vit_micro_patch7_28: leaves tokens out"):
        write_timm(trained, tmp_path / "timm")
    assert not (tmp_path / "timm").exists()
