"""What the loop does: small sets, accumulation, averages, precision, two processes, bad losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrellis
from tests.training.command import run
from vitrellis.assembly.launch import Finished
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.recipe import recipe_from
from vitrellis.runs.directory import RunDirectory


def tiny(tmp_path: Path, name: str = "run", count: int = 48, **changes: Any) -> Finished:
    """Trains a tiny ViT on coloured squares."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 80, (count, 3, 28, 28), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), labels] += 120
    values: dict[str, Any] = {
        "name": name,
        "data": {"val_fraction": 0.25},
        "input": {"img_size": 28},
        "augmentation": {"crop": "padded", "padding": 2},
        "model": {"name": "vit_micro_patch7_28"},
        "optimizer": {"lr": 1e-3},
        "training": {"epochs": 2, "batch_size": 12, "clip_grad": 1.0},
        "machine": {"accelerator": "cpu"},
    }
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            values.setdefault(section, {})[field] = value
        else:
            values[section] = value
    source = vitrellis.from_tensors(images, labels)
    return vitrellis.train(recipe_from(values), source=source, out=tmp_path / name)


def weights(finished: Finished) -> dict[str, torch.Tensor]:
    path = finished.run.last_checkpoint
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["guided"]
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}


def test_it_learns(tmp_path: Path) -> None:
    finished = tiny(tmp_path, training__epochs=12)
    assert finished.results["best"]["val_top1"] > 0.8
    rows = finished.run.read_metrics()
    assert [row["epoch"] for row in rows] == list(range(12))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_batch_larger_than_the_set(tmp_path: Path) -> None:
    finished = tiny(tmp_path, count=50, training__batch_size=512)
    assert finished.run.read_metrics()[-1]["step"] == 2


def test_repeated_augmentation_on_few_images(tmp_path: Path) -> None:
    finished = tiny(tmp_path, count=50, augmentation__repeats=3)
    assert len(finished.run.read_metrics()) == 2


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    whole = weights(tiny(tmp_path, "whole", optimizer__name="sgd", optimizer__lr=0.05))
    parts = weights(
        tiny(tmp_path, "parts", optimizer__name="sgd", optimizer__lr=0.05, training__accumulate=3)
    )
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


def test_the_moving_average_is_what_is_exported(tmp_path: Path) -> None:
    finished = tiny(tmp_path, training__ema=0.9)
    state = torch.load(finished.run.last_checkpoint, weights_only=True)
    exported = vitrellis.load_exported(finished.run.last_model).model.state_dict()
    for name, value in state["ema"].items():
        assert torch.equal(exported[name], value)
    assert any(
        not torch.equal(value, state["guided"][f"student.{name}"])
        for name, value in state["ema"].items()
    )


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(tmp_path: Path, precision: str) -> None:
    if precision == "16-mixed" and not torch.cuda.is_available():
        pytest.skip("half precision with a gradient scaler needs a GPU")
    finished = tiny(tmp_path, training__precision=precision, training__epochs=6)
    rows = finished.run.read_metrics()
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_without_validation_images_the_last_is_kept(tmp_path: Path) -> None:
    finished = tiny(tmp_path, data__val_fraction=0)
    assert finished.results["best"]["epoch"] is None
    assert vitrellis.load_exported(finished.run.best_model).class_names


def test_mixing_and_erasing_run(tmp_path: Path) -> None:
    finished = tiny(
        tmp_path,
        augmentation__mixup=0.8,
        augmentation__cutmix=1.0,
        augmentation__erasing=0.25,
        augmentation__rand_augment="rand-m9-mstd0.5-inc1",
        augmentation__crop="resized",
    )
    assert finished.run.results_file.exists()


def test_a_diverging_loss_is_named_and_the_checkpoint_kept(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="cross_entropy") as caught:
        tiny(
            tmp_path,
            optimizer__name="sgd",
            optimizer__lr=1e30,
            training__epochs=30,
            training__clip_grad=None,
            training__checkpoint_minutes=0,
        )
    message = str(caught.value)
    assert "step" in message
    assert "last.ckpt" in message
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in state["guided"].values() if isinstance(v, torch.Tensor))


def test_another_process_is_training_here(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            tiny(tmp_path)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        tiny(tmp_path)
    assert (tmp_path / "run" / "thesis.tex").exists()


def curve(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows for key in ("loss", "val_loss", "val_top1")]


@pytest.mark.slow
def test_the_best_epoch_can_be_chosen_by_balanced_accuracy(tmp_path: Path) -> None:
    words = ["train", "demo-vit-alone", "data.long_tail.factor=20", "data.train_size=null"]
    words += ["training.epochs=4", "schedule.warmup_epochs=0", "training.eval_every=1"]
    run(*words, "training.select_by=balanced_accuracy", "--out", "runs/x", cwd=tmp_path)
    directory = RunDirectory(tmp_path / "runs" / "x")
    balanced = [row["val_balanced"] for row in directory.read_metrics()]
    assert directory.read_results()["best"]["epoch"] == balanced.index(max(balanced))
    ended = run("eval", "runs/x", "--split", "val", "--json", cwd=tmp_path)
    assert json.loads(ended)["balanced_accuracy"] == pytest.approx(max(balanced), abs=1e-6)


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    """The hybrid's batch norms see half a batch each, so this is a plain ViT without a teacher."""
    words = ["train", "demo-vit-alone", "data.train_size=64", "training.epochs=3"]
    words += ["model.name=vit_micro_patch7_28", "schedule.warmup_epochs=0", "machine.threads=1"]
    words += ["machine.accelerator=cpu", "training.batch_size=16", "training.eval_every=1"]
    run(*words, "--out", "runs/one", cwd=tmp_path)
    run(*words, "machine.devices=2", "--out", "runs/two", cwd=tmp_path)
    one, two = curve(tmp_path / "runs" / "one"), curve(tmp_path / "runs" / "two")
    assert two == pytest.approx(one, rel=1e-3, abs=2e-3)
