"""What the loop does: small sets, accumulation, averages, precision, two processes, bad losses."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrellis
from tests.training.command import FEW_IMAGES, finish, run, start
from tests.training.tiny import guided_weights, tiny
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.runs.directory import RunDirectory


def test_it_learns(tmp_path: Path) -> None:
    finished = tiny(tmp_path, training__epochs=12)
    assert (finished.results.best.val_top1 or 0) > 0.8
    rows = finished.run.read_metrics()
    assert [row.epoch for row in rows] == list(range(12))
    assert rows[-1].loss < rows[0].loss


def test_a_batch_larger_than_the_set(tmp_path: Path) -> None:
    finished = tiny(tmp_path, count=50, training__batch_size=512)
    assert finished.run.read_metrics()[-1].step == 2


def test_repeated_augmentation_shows_each_image_several_times(tmp_path: Path) -> None:
    """An epoch keeps its length: it shows a third of the images, each three times."""
    finished = tiny(tmp_path, count=50, augmentation__repeats=3)
    assert [row.step for row in finished.run.read_metrics()] == [3, 6]
    once = tiny(tmp_path, "once", count=50)
    assert [row.step for row in once.run.read_metrics()] == [3, 6]
    mine, theirs = guided_weights(finished), guided_weights(once)
    assert any(not torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("sam", [None, {"rho": 0.1}], ids=["plain", "sam"])
def test_accumulation_changes_nothing_but_rounding(
    tmp_path: Path, sam: dict[str, float] | None
) -> None:
    settings: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0.05, "sam": sam}}
    whole = guided_weights(tiny(tmp_path, "whole", **settings))
    parts = guided_weights(tiny(tmp_path, "parts", **settings, training__accumulate=3))
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
@pytest.mark.parametrize("sam", [None, {}], ids=["plain", "sam"])
def test_mixed_precision(tmp_path: Path, precision: str, sam: dict[str, float] | None) -> None:
    if precision == "16-mixed" and not torch.cuda.is_available():
        pytest.skip("half precision with a gradient scaler needs a GPU")
    rows = tiny(
        tmp_path, training__precision=precision, training__epochs=3, optimizer__sam=sam
    ).run.read_metrics()
    assert rows[-1].loss < rows[0].loss


def test_without_validation_images_the_last_is_kept(tmp_path: Path) -> None:
    finished = tiny(tmp_path, data__val_fraction=0)
    assert finished.results.best.epoch is None
    assert finished.results.last.epoch == 1
    run = finished.run
    kept, last = (
        vitrellis.load_exported(folder).model.state_dict()
        for folder in (run.best_model, run.last_model)
    )
    learned = guided_weights(finished)
    assert all(torch.equal(kept[name], last[name]) for name in last)
    assert all(torch.equal(last[name], learned[f"student.{name}"]) for name in last)


@pytest.mark.parametrize(
    "settings",
    [
        {"mixup": 0.8},
        {"cutmix": 1.0},
        {"erasing": 1.0},
        {"rand_augment": "rand-m9-mstd0.5-inc1"},
        {"crop": "resized"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_each_augmentation_reaches_the_steps(tmp_path: Path, settings: dict[str, Any]) -> None:
    changes = {f"augmentation__{key}": value for key, value in settings.items()}
    with_it = tiny(tmp_path, "with", training__epochs=1, **changes).run.read_metrics()
    without = tiny(tmp_path, "without", training__epochs=1).run.read_metrics()
    assert with_it[0].loss != without[0].loss


def test_the_caller_keeps_the_settings_of_its_process(tmp_path: Path) -> None:
    """Also after an error."""
    tiny_number = torch.tensor([2.0**-149])
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    for number, changes in enumerate([{}, {"optimizer__lr": 1e30, "optimizer__name": "sgd"}]):
        torch.manual_seed(5)
        settings: dict[str, Any] = {"machine__threads": 1, "training__clip_grad": None, **changes}
        if changes:
            with pytest.raises(VitrellisError, match="not finite"):
                tiny(tmp_path, str(number), **settings)
        else:
            tiny(tmp_path, str(number), **settings)
        assert torch.equal(torch.rand(3), expected)
        assert torch.get_num_threads() == threads
        assert (tiny_number * 1 != 0).all()


def test_a_run_is_resumed_when_its_initial_weights_are_gone(tmp_path: Path) -> None:
    first = tiny(tmp_path, "first", training__epochs=1)
    file = tmp_path / "initial.safetensors"
    shutil.copy(first.run.last_model / "model.safetensors", file)
    init = {"weights": str(file)}
    whole = tiny(tmp_path, "second", init=init)
    before = guided_weights(whole)
    whole.run.results_file.unlink()  # as if killed before the end
    file.unlink()
    after = guided_weights(tiny(tmp_path, "second", init=init))
    assert all(torch.equal(before[name], after[name]) for name in before)


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


def curve(folder: Path) -> list[float | None]:
    rows = RunDirectory(folder).read_metrics()
    return [value for row in rows for value in (row.loss, row.val_loss, row.val_top1)]


@pytest.mark.slow
def test_the_best_epoch_can_be_chosen_by_balanced_accuracy(tmp_path: Path) -> None:
    words = [
        "train",
        "demo-vit-alone",
        "data.long_tail.imbalance_factor=20",
        "data.train_size=null",
    ]
    words += ["training.epochs=4", "schedule.warmup_epochs=0", "training.eval_every=1"]
    run(*words, "training.select_by=balanced_accuracy", "--out", "runs/x", cwd=tmp_path)
    directory = RunDirectory(tmp_path / "runs" / "x")
    balanced = [row.val_balanced or 0 for row in directory.read_metrics()]
    assert directory.read_results().best.epoch == balanced.index(max(balanced))
    ended = run("eval", "runs/x", "--split", "val", "--json", cwd=tmp_path)
    assert json.loads(ended)["balanced_accuracy"] == pytest.approx(max(balanced), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "of_two"),
    [
        ("optimizer.sam=null", "machine.strategy=ddp"),
        pytest.param("optimizer.sam={rho: 0.1}", "machine.strategy=ddp", marks=pytest.mark.slow),
        ("training.accumulate=2", "machine.strategy=fsdp"),
        pytest.param(
            "pruning={keep_rate: 0.7, layers: [1], until_epoch: 1}",
            "machine.strategy=fsdp",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "sam", "sharded", "sharded-pruned"],
)
def test_two_processes_give_the_curve_of_one(tmp_path: Path, change: str, of_two: str) -> None:
    """The hybrid's batch norms see half a batch each, so this is a plain ViT without a teacher."""
    words = ["train", "demo-vit-alone", FEW_IMAGES, "data.train_size=64", "training.epochs=2"]
    words += ["model.name=vit_micro_patch7_28", "schedule.warmup_epochs=0", "machine.threads=1"]
    words += ["machine.accelerator=cpu", "training.batch_size=16", "training.eval_every=1"]
    words += [change]
    run(*words, "--out", "runs/one", cwd=tmp_path)
    # each process starts the command anew
    said = finish(start(*words, "machine.devices=2", of_two, "--out", "runs/two", cwd=tmp_path))
    for text in ("  model      vit_micro", "epoch 2/2", "best  epoch", "Run: runs/two", "cost  "):
        assert said.count(text) == 1, said  # one of them prints
    one, two = curve(tmp_path / "runs" / "one"), curve(tmp_path / "runs" / "two")
    assert two == pytest.approx(one, rel=1e-3, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("1", "2 ddp"),
        ("2 ddp", "1"),
        ("2 ddp", "2 ddp"),
        ("1", "2 fsdp"),
        ("2 fsdp", "1"),
        ("2 fsdp", "2 ddp"),
        ("2 ddp", "2 fsdp"),
    ],
)
def test_a_run_continues_in_other_numbers_of_processes_with_the_same_curve(
    tmp_path: Path, before: str, after: str
) -> None:
    words = ["train", "demo-vit-alone", FEW_IMAGES, "data.train_size=64", "training.epochs=20"]
    words += ["model.name=vit_micro_patch7_28", "schedule.warmup_epochs=0", "machine.threads=1"]
    words += ["machine.accelerator=cpu", "training.batch_size=16", "training.eval_every=1"]
    run(*words, "--out", "runs/one", cwd=tmp_path)

    def machine(described: str) -> list[str]:
        devices, _, strategy = described.partition(" ")
        return [f"machine.devices={devices}", f"machine.strategy={strategy or 'ddp'}"]

    two_words = [*words, "--out", "runs/two"]
    begun = start(*two_words, *machine(before), cwd=tmp_path)
    metrics = tmp_path / "runs" / "two" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    begun.terminate()
    begun.communicate()
    assert begun.returncode == 1  # it did not finish before
    said = finish(start(*two_words, *machine(after), cwd=tmp_path))
    assert "continues in epoch" in said
    one, two = curve(tmp_path / "runs" / "one"), curve(tmp_path / "runs" / "two")
    of_ten_epochs = len(one) // 2  # after them, differences in rounding have grown
    assert two[:of_ten_epochs] == pytest.approx(one[:of_ten_epochs], rel=1e-3, abs=2e-3)


def test_a_run_that_learns_has_no_warning_and_one_that_does_not_has(tmp_path: Path) -> None:
    """These have no test images, so they are judged on the validation images."""
    learned = tiny(tmp_path, "learned", count=96, training__epochs=8)
    assert (learned.results.best.val_top1 or 0) > 0.8
    assert learned.results.warnings == ()
    idle = tiny(tmp_path, "idle", count=96, training__epochs=1, optimizer__lr=1e-9)
    assert any(text.startswith("near chance") for text in idle.results.warnings)
