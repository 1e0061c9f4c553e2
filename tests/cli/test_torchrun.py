"""The commands under torchrun: with two agents, as on two machines, and with one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.command import run_apart, run_here
from tests.training.command import FEW_IMAGES, write_few_images

pytestmark = pytest.mark.slow

TRAIN = ["train", "demo-vit-alone", FEW_IMAGES, "data.train_size=64", "training.epochs=2"]
TRAIN += ["model.name=vit_micro_patch7_28", "schedule.warmup_epochs=0", "machine.threads=1"]
TRAIN += ["machine.accelerator=cpu", "training.batch_size=16"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def torchrun(*words: str, cwd: Path, machines: int = 1, per_machine: int = 1) -> list[str]:
    """Runs `vitrellis WORDS` under an agent for each machine; what each of them printed."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(machines)]
    agent += ["--nproc-per-node", str(per_machine)]
    agent += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    agents = [
        subprocess.Popen(
            [*agent, "--node-rank", str(number), "-m", "vitrellis", *words],
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        )
        for number in range(machines)
    ]
    printed = []
    for process in agents:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        printed.append(out)
    return printed


def curve(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows for key in ("loss", "val_loss") if key in row]


def test_two_machines_give_the_curve_of_one_and_evaluate_each_image_once(tmp_path: Path) -> None:
    write_few_images(tuple(TRAIN), tmp_path)
    run_here(*TRAIN, "--out", "runs/one", cwd=tmp_path)
    first, second = torchrun(*TRAIN, "--out", "runs/two", cwd=tmp_path, machines=2)
    assert "2 x cpu" in first
    assert second == ""
    assert curve(tmp_path / "runs/two") == pytest.approx(curve(tmp_path / "runs/one"), rel=1e-3)

    alone = run_here("eval", "runs/one", "--json", cwd=tmp_path).out
    (together,) = torchrun("eval", "runs/one", "--json", cwd=tmp_path, per_machine=3)
    assert json.loads(together) == json.loads(alone)

    images = ["fashion-images"]
    folder = tmp_path / images[0]
    folder.mkdir()
    for number in range(5):
        Image.new("L", (28, 28), 50 * number).save(folder / f"{number}.png")
    alone = run_here("predict", "runs/one", *images, "--csv", cwd=tmp_path).out
    (together,) = torchrun("predict", "runs/one", *images, "--csv", cwd=tmp_path, per_machine=2)
    assert together == alone
    assert len(alone.splitlines()) == 6


def test_an_error_of_all_processes_is_printed_once(tmp_path: Path) -> None:
    write_few_images(tuple(TRAIN), tmp_path)
    two = [*TRAIN, "machine.devices=2", "--out", "runs/x"]
    ended = run_apart(*two, "init.weights=none.pth", cwd=tmp_path, code=1)
    assert ended.err.count("none.pth: no such file of weights") == 1
    run_here(*TRAIN, "training.epochs=1", "--out", "runs/x", cwd=tmp_path)
    ended = run_apart(*two, cwd=tmp_path, code=2)  # the first process alone opens the folder
    assert ended.err.count("holds the run of another recipe") == 1
    assert "Another" not in ended.err
    assert "rank1" not in ended.err
