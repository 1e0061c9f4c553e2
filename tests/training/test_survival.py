"""Runs that are stopped, killed, changed or damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.training.command import TINY, assert_same_weights, finish, run, start, wait_for, weights


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, and its teacher beside it."""
    folder = tmp_path_factory.mktemp("reference")
    run("train", "demo", *TINY, "--out", "runs/whole", cwd=folder)
    return folder / "runs" / "whole"


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    """An empty place where the teacher is known already, so that the student starts at once."""
    shutil.copytree(reference.parent / "teachers", tmp_path / "runs" / "teachers")
    return tmp_path


def test_same_command_twice_gives_the_same_bits(reference: Path, folder: Path) -> None:
    run("train", "demo", *TINY, "--out", "runs/again", cwd=folder)
    assert_same_weights(reference, folder / "runs" / "again")


def test_teacher_is_trained_once(reference: Path, folder: Path) -> None:
    (teacher,) = (folder / "runs" / "teachers").iterdir()
    before = (teacher / "model" / "model.safetensors").stat().st_mtime_ns
    out = run("train", "demo", *TINY, "--out", "runs/other", cwd=folder)
    assert "complete" in out
    assert (teacher / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert len(list((folder / "runs" / "teachers").iterdir())) == 1


def kill_and_continue(folder: Path, reference: Path, kills: int, seed: int) -> None:
    """Kills the run at random moments after its start, then lets it end."""
    words = ["train", "demo", *TINY, "training.checkpoint_minutes=0", "--out", "runs/killed"]
    moments = random.Random(seed)
    checkpoint = folder / "runs" / "killed" / "checkpoints" / "last.ckpt"
    for _ in range(kills):
        process = start(*words, cwd=folder)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break  # a step is done; now at any moment
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    out = run(*words, cwd=folder)
    assert "continues" in out or "complete" in out
    assert_same_weights(reference, folder / "runs" / "killed")
    epochs = [
        json.loads(line)["epoch"]
        for line in (folder / "runs" / "killed" / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == [0, 1]


def test_killed_three_times(reference: Path, folder: Path) -> None:
    kill_and_continue(folder, reference, kills=3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(reference: Path, folder: Path) -> None:
    kill_and_continue(folder, reference, kills=20, seed=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_and_says_how_to_go_on(
    reference: Path, folder: Path, number: signal.Signals
) -> None:
    words = ["train", "demo", *TINY, "--out", "runs/stopped"]
    slow = [*words, "training.epochs=400"]  # long enough to be met by a signal
    process = start(*slow, cwd=folder)
    wait_for("first epoch", folder / "runs" / "stopped" / "metrics.jsonl", process)
    process.send_signal(number)
    message = " ".join(finish(process, code=1).split())
    assert "The same command continues" in message
    assert (folder / "runs" / "stopped" / "checkpoints" / "last.ckpt").exists()
    # and a changed recipe does not continue it by accident
    message = " ".join(run(*words, cwd=folder, code=2).split())
    assert "training.epochs: 400" in message
    assert "--fresh" in message
    run(*words, "--fresh", cwd=folder)
    assert_same_weights(reference, folder / "runs" / "stopped")


def test_other_images_are_noticed(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "runs" / "whole")
    data = tmp_path / "runs" / "whole" / "data.json"
    content = json.loads(data.read_text())
    data.write_text(json.dumps(content | {"fingerprint": "0" * 16}))
    message = run("train", "demo", *TINY, "--out", "runs/whole", cwd=tmp_path, code=2)
    assert "other images" in " ".join(message.split())


def test_another_teacher_of_the_same_name_is_noticed(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "runs" / "whole")
    data = tmp_path / "runs" / "whole" / "data.json"
    content = json.loads(data.read_text())
    assert content["teachers"]["teacher"]["model"]["name"] == "cifar_resnet8"
    content["teachers"]["teacher"]["training"]["epochs"] = 3
    data.write_text(json.dumps(content))
    message = run("train", "demo", *TINY, "--out", "runs/whole", cwd=tmp_path, code=2)
    message = " ".join(message.split())
    assert "another teacher; changes in demo-teacher: training.epochs: 3 → 1" in message
    assert "--fresh" in message


def test_a_complete_run_is_shown_not_repeated(reference: Path) -> None:
    before = (reference / "results.json").stat().st_mtime_ns
    out = run("train", "demo", *TINY, "--out", "runs/whole", cwd=reference.parent.parent)
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
    message = run("train", "demo", *TINY, "--out", "runs/whole", cwd=tmp_path, code=1)
    assert "last.ckpt" in message
    assert checkpoint.exists()


def test_a_checkpoint_of_another_model(reference: Path, tmp_path: Path) -> None:
    copy = unfinished(reference, tmp_path)
    (teacher,) = (tmp_path / "runs" / "teachers").iterdir()
    shutil.copy(teacher / "checkpoints" / "last.ckpt", copy / "checkpoints" / "last.ckpt")
    message = run("train", "demo", *TINY, "--out", "runs/whole", cwd=tmp_path, code=1)
    assert "another model" in " ".join(message.split())


def test_a_payload_in_a_checkpoint_is_not_executed(reference: Path, tmp_path: Path) -> None:
    import torch

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    copy = unfinished(reference, tmp_path)
    torch.save({"guided": Payload()}, copy / "checkpoints" / "last.ckpt")
    message = run("train", "demo", *TINY, "--out", "runs/whole", cwd=tmp_path, code=1)
    assert "last.ckpt" in message
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_while_saving(reference: Path, folder: Path) -> None:
    """The limit on file sizes stands in for the disk: the write fails halfway."""
    import subprocess
    import sys

    command = f"ulimit -f 300; exec {sys.executable} -m vitrellis train demo "
    command += " ".join(f"'{word}'" for word in TINY) + " --out runs/full"
    # SIGXFSZ is ignored by Python, which then sees the failing write
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "could not write" in " ".join(done.stderr.split())
    left = [path for path in (folder / "runs" / "full").rglob("*") if path.name.endswith(".tmp")]
    assert not left
    run("train", "demo", *TINY, "--out", "runs/full", cwd=folder)  # with room again
    assert_same_weights(reference, folder / "runs" / "full")


def test_weights_are_compared_at_all(reference: Path) -> None:
    assert len(weights(reference)) > 100
