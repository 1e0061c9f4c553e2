"""Runs that are stopped, killed, changed or damaged."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.runs.edited import unsealed
from tests.training.command import (
    FEW_IMAGES,
    TINY,
    assert_same_weights,
    finish,
    run,
    start,
    weights,
)
from tests.training.stopped import begin
from vitrellis.runs.checksums import seal_zip, write_sealed_json

# a teacher in train mode drifts, so that its batch norms have to be resumed as well
WORDS = [
    *("train", "demo", *TINY, FEW_IMAGES, "teacher.mode=train"),
    "data={train_size: null, long_tail: {imbalance_factor: 4, largest: 10, permute: true}}",
    "data.sampler=square_root",
    "training={epochs: 6, accumulate: 2, ema: 0.9, checkpoint_minutes: 0}",
    "optimizer={lr: 2.0e-3, lr_per_batch: 32, sam: {rho: [[0, 0.05], [2, 0.1]]}}",
    "objective={kd: null, hard: {head: distillation}}",
    "objective.cross_entropy={loss: balanced_softmax, label_smoothing: 0.1}",
    "model={distillation_head: true, args: {drop_rate: 0.1}}",
    "augmentation={mixup: 0.8, cutmix: 1.0}",
    "deferred={after_epochs: 3, reweight: both}",
]
"""A run with all that an interruption could change: SAM whose rho moves, a moving average of the
weights, batches in parts, dropout, and a last phase with other losses and without mixing."""
EPOCHS = 6


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, and its teacher beside it."""
    folder = tmp_path_factory.mktemp("reference")
    out = run(*WORDS, "--out", "runs/whole", cwd=folder)
    assert "re-weighted" in out
    assert "from epoch 4 of 6 on, without mixing images" in out
    assert "balanced softmax" in out
    assert "SAM rho 0.05, 0.1 from epoch 3" in out
    assert "lr 0.001 (0.002 for a batch of 32)" in out  # of 16 in two portions
    return folder / "runs" / "whole"


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    """An empty place where the teacher is known already, so that the student starts at once."""
    shutil.copytree(reference.parent / "teachers", tmp_path / "runs" / "teachers")
    return tmp_path


def test_the_same_command_gives_the_same_bits_with_the_same_teacher(
    reference: Path, folder: Path
) -> None:
    """The other run has a process of its own."""
    (teacher,) = (folder / "runs" / "teachers").iterdir()
    before = (teacher / "model" / "model.safetensors").stat().st_mtime_ns
    out = finish(start(*WORDS, "--out", "runs/again", cwd=folder))
    assert_same_weights(reference, folder / "runs" / "again")
    assert "complete" in out
    assert (teacher / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert len(list((folder / "runs" / "teachers").iterdir())) == 1


def epochs_logged(path: Path) -> list[int]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def assert_survives(folder: Path, reference: Path, kills: int, seed: int) -> None:
    """Kills the run at random moments after its start, then lets it end."""
    exit_codes = []
    words = [*WORDS, "--out", "runs/killed"]
    moments = random.Random(seed)
    checkpoint = folder / "runs" / "killed" / "checkpoints" / "last.ckpt"
    for _ in range(kills):
        process, _ = begin(*words, cwd=folder)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break  # a step is done; now at any moment
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        process.join()
        exit_codes.append(process.exitcode)
    assert exit_codes.count(-signal.SIGKILL) >= 3  # the others came when it had ended
    out = run(*words, cwd=folder)
    assert "continues" in out or "complete" in out
    assert_same_weights(reference, folder / "runs" / "killed")
    assert epochs_logged(folder / "runs" / "killed") == list(range(EPOCHS))


def test_killed_three_times(reference: Path, folder: Path) -> None:
    assert_survives(folder, reference, kills=3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(reference: Path, folder: Path) -> None:
    assert_survives(folder, reference, kills=20, seed=1)


def test_stopped_politely_then_killed_in_the_last_phase(reference: Path, folder: Path) -> None:
    words = [*WORDS, "--out", "runs/stopped"]
    stopped = folder / "runs" / "stopped"
    for epoch, step, number in ((1, 1, signal.SIGTERM), (2, 3, signal.SIGINT)):
        said = begin(*words, cwd=folder, stop=(epoch, step, number)).finish(code=1)
        said = " ".join(said.split())
        assert f"in epoch {epoch + 1} of 6, after step {step} of " in said
        assert "The same command continues" in said
        state = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
        assert (state["progress"]["epoch"], state["progress"]["step"]) == (epoch, step)
    shutil.copytree(stopped, folder / "runs" / "fresh")
    # a changed recipe does not continue it by accident
    message = run(*words, "training.epochs=9", cwd=folder, code=2)
    assert "training.epochs: 6" in message
    assert "--fresh" in message
    killed = begin(*words, cwd=folder, stop=(4, 2, signal.SIGKILL))
    assert "continues in epoch 3" in killed.finish(code=-signal.SIGKILL)
    assert "continues in epoch 5 after step 1" in run(*words, cwd=folder)
    assert_same_weights(reference, stopped)
    assert epochs_logged(stopped) == list(range(EPOCHS))
    run(*WORDS, "--out", "runs/fresh", "--fresh", cwd=folder)
    assert_same_weights(reference, folder / "runs" / "fresh")


def test_other_images_are_noticed(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "runs" / "whole")
    data = tmp_path / "runs" / "whole" / "data.json"
    content = unsealed(data)
    write_sealed_json(data, content | {"fingerprint": "0" * 16})
    message = run(*WORDS, "--out", "runs/whole", cwd=tmp_path, code=2)
    assert "other images" in " ".join(message.split())


def test_another_teacher_of_the_same_name_is_noticed(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "runs" / "whole")
    data = tmp_path / "runs" / "whole" / "data.json"
    content = unsealed(data)
    assert content["teachers"]["teacher"]["model"]["name"] == "cifar_resnet8"
    content["teachers"]["teacher"]["training"]["epochs"] = 3
    write_sealed_json(data, content)
    message = run(*WORDS, "--out", "runs/whole", cwd=tmp_path, code=2)
    message = " ".join(message.split())
    assert "another teacher; changes in demo-teacher: training.epochs: 3 → 1" in message
    assert "--fresh" in message


def test_a_complete_run_is_shown_not_repeated(reference: Path) -> None:
    before = (reference / "results.json").stat().st_mtime_ns
    out = run(*WORDS, "--out", "runs/whole", cwd=reference.parent.parent)
    assert "complete" in out
    assert "test" in out
    assert (reference / "results.json").stat().st_mtime_ns == before


def unfinished(reference: Path, tmp_path: Path) -> Path:
    """A copy of the run, as if it had been killed before its figures were written."""
    copy = tmp_path / "runs" / "whole"
    shutil.copytree(reference, copy)
    shutil.copytree(reference.parent / "teachers", tmp_path / "runs" / "teachers")
    (copy / "results.json").unlink()
    return copy


def test_a_checkpoint_cut_in_half(reference: Path, tmp_path: Path) -> None:
    checkpoint = unfinished(reference, tmp_path) / "checkpoints" / "last.ckpt"
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    message = run(*WORDS, "--out", "runs/whole", cwd=tmp_path, code=1)
    assert "last.ckpt" in message
    assert checkpoint.exists()


def test_a_checkpoint_of_another_model(reference: Path, tmp_path: Path) -> None:
    copy = unfinished(reference, tmp_path)
    (teacher,) = (tmp_path / "runs" / "teachers").iterdir()
    shutil.copy(teacher / "checkpoints" / "last.ckpt", copy / "checkpoints" / "last.ckpt")
    message = run(*WORDS, "--out", "runs/whole", cwd=tmp_path, code=1)
    assert "another model" in " ".join(message.split())


def test_a_payload_in_a_checkpoint_is_not_executed(reference: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    copy = unfinished(reference, tmp_path)
    file = copy / "checkpoints" / "last.ckpt"
    torch.save({"guided": Payload()}, file)
    seal_zip(file)  # which anybody can
    message = run(*WORDS, "--out", "runs/whole", cwd=tmp_path, code=1)
    assert "last.ckpt: not a readable checkpoint" in " ".join(message.split())
    assert not (tmp_path / "executed").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Makes writing more than `size` bytes to a file fail, as on a full disk."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def test_a_full_disk_while_saving(reference: Path, folder: Path) -> None:
    """The write fails halfway: Python ignores the signal, and sees an error."""
    words = [*WORDS, "--out", "runs/full"]
    with largest_file(300 * 1024):
        message = run(*words, cwd=folder, code=1)
    assert "could not write" in " ".join(message.split())
    left = [path for path in (folder / "runs" / "full").rglob("*") if path.name.endswith(".tmp")]
    assert not left
    run(*words, cwd=folder)  # with room again
    assert_same_weights(reference, folder / "runs" / "full")


def test_weights_are_compared_at_all(reference: Path) -> None:
    assert len(weights(reference)) > 100
