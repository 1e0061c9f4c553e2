"""Parametric contrastive learning in a run: what is exported, resumed and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vitrellis
from tests.training.command import assert_same_weights, finish, start
from tests.training.stopped import signal_after
from tests.training.tiny import tiny
from vitrellis.assembly.build import Place, build_preprocessing, build_train_loader
from vitrellis.data.augmentation.transforms import TrainTransform
from vitrellis.data.randomness import child_keys
from vitrellis.data.sources import from_tensors
from vitrellis.errors import UsageError
from vitrellis.recipe import load_recipe, recipe_from, without_guidance
from vitrellis.runs.directory import RunDirectory
from vitrellis.training.interrupts import Interrupted

SIMCLR: dict[str, Any] = {
    "scale": (0.2, 0.9),
    "ratio": (0.8, 1.2),
    "interpolation": "bilinear",
    "flip": 0.3,
    "vertical_flip": 0.2,
    "rand_augment": "rand-m9",
    "color_jitter": (0.4, 0.3, 0.2, 0.1),
    "color_jitter_probability": 0.8,
    "grayscale": 0.2,
    "blur": 0.5,
    "blur_sigma": (0.2, 1.5),
}
PACO: dict[str, Any] = {
    "model": {"name": "cifar_resnet8"},
    "objective": {"cross_entropy": {"weight": 0}, "paco": {"queue": 40}},
}

QUEUE = ("queue", "queue_labels", "position")


def test_it_learns_and_the_plain_student_is_exported(tmp_path: Path) -> None:
    finished = tiny(tmp_path, **PACO, training__epochs=15, optimizer__lr=5e-3)
    assert (finished.results.best.val_top1 or 0) > 0.8
    rows = finished.run.read_metrics()
    assert rows[-1].parts["paco"] == pytest.approx(rows[-1].loss, rel=1e-6)
    assert rows[-1].loss < rows[0].loss
    trained = vitrellis.load_exported(finished.run.last_model).model
    state = torch.load(finished.run.last_checkpoint, weights_only=True)["guided"]
    for name, value in trained.state_dict().items():
        assert torch.equal(value, state[f"student.{name}"])
    assert int(state["objective.terms.paco.position"]) == 15 * 3 * 12 % 40


def test_it_can_teach(tmp_path: Path) -> None:
    teacher = tiny(tmp_path, "teacher", **PACO)
    objective = {"hard": {"weight": 1.0}}
    student = tiny(tmp_path, "student", teacher={"run": teacher.run.path}, objective=objective)
    assert "hard" in student.run.read_metrics()[-1].parts


@pytest.mark.parametrize("sam", [None, {"rho": 0.1}])
def test_keys_enter_the_queue_once_a_step(tmp_path: Path, sam: dict[str, float] | None) -> None:
    finished = tiny(tmp_path, **PACO, optimizer__sam=sam, training__accumulate=2)
    state = torch.load(finished.run.last_checkpoint, weights_only=True)["guided"]
    assert int(state["objective.terms.paco.position"]) == 2 * 3 * 12 % 40
    steps = state["objective.terms.paco.key_student.bn1.num_batches_tracked"]
    assert int(steps) == 2 * 3 * 2


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**PACO, "optimizer__sam": {"rho": 0.05}}
    whole = tiny(tmp_path, "whole", **settings)
    with signal_after(1, 2), pytest.raises(Interrupted, match="after step 2 of 3"):
        tiny(tmp_path, "stopped", **settings)
    stopped = tiny(tmp_path, "stopped", **settings)
    assert_same_weights(whole.run.path, stopped.run.path)


@pytest.mark.parametrize("second", [None, SIMCLR], ids=["as the first", "of its own"])
def test_both_views_are_made_as_the_recipe_says(second: dict[str, Any] | None) -> None:
    first: dict[str, Any] = {
        "crop": "padded",
        "padding": 3,
        "auto_augment": "cifar10",
        "cutout": 8,
        "erasing": 0.5,
    }
    recipe = recipe_from(
        {
            "model": {"name": "cifar_resnet8"},
            "training": {"epochs": 1, "batch_size": 20},
            "input": {"img_size": 16, "normalization": "cifar", "canvas": 16},
            "augmentation": first | {"second_view": second},
            "objective": {"paco": {}},
        }
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 16, 16), generator=generator, dtype=torch.uint8)
    source = from_tensors(images, torch.arange(20) % 2)
    preprocessing = build_preprocessing(recipe, source)
    loader = build_train_loader(recipe, source, preprocessing, Place(torch.device("cpu")))
    (batch,) = loader.epoch(0)
    settings: dict[str, Any] = {
        "size": (16, 16),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }
    stored = images[batch.indices]
    assert torch.equal(batch.images, TrainTransform(**settings, **first)(stored, batch.keys))
    expected = TrainTransform(**settings, **(second or first))
    assert batch.second_view is not None
    assert torch.equal(batch.second_view, expected(stored, child_keys(batch.keys, "second-view")))


def test_mixed_images_are_refused_with_the_recipe() -> None:
    with pytest.raises(UsageError, match="one class each"):
        load_recipe("demo-teacher", ["objective.paco={}", "augmentation.mixup=0.8"])


@pytest.mark.slow
@pytest.mark.parametrize(("images", "accumulate"), [(52, 2), (51, 1)])
def test_devices_fill_one_queue(tmp_path: Path, images: int, accumulate: int) -> None:
    """The parts of an accumulated batch have the same keys, which do not depend on the queue.

    Of 51 images, two devices have parts of different lengths; their order is that of one batch.
    """
    words = ["train", "demo-teacher", f"data.train_size={images}", f"training.batch_size={images}"]
    words += ["objective={cross_entropy: {weight: 0}, paco: {queue: 80}}", "data.val_fraction=0.1"]
    words += ["training.epochs=1", "schedule.warmup_epochs=0", "model.name=cifar_resnet8"]
    words += ["machine.threads=1", "machine.accelerator=cpu", "augmentation.second_view={}"]
    states = []
    for change in ("machine.devices=2", f"training.accumulate={accumulate}"):
        finish(start(*words, change, "--out", str(tmp_path / change), cwd=tmp_path))
        checkpoint = RunDirectory(tmp_path / change).last_checkpoint
        guided = torch.load(checkpoint, weights_only=True)["guided"]
        states.append({key: guided[f"objective.terms.paco.{key}"] for key in QUEUE})
    both, one = states
    assert int(both["position"]) == images
    assert torch.equal(both["queue_labels"], one["queue_labels"])
    if accumulate == 2:
        torch.testing.assert_close(both["queue"], one["queue"])


def test_it_needs_no_teacher_and_stays_without_one() -> None:
    recipe = load_recipe("demo-teacher", ["objective.paco={}"])
    assert recipe.objective.guided_terms == {}
    assert without_guidance(recipe).objective == recipe.objective
