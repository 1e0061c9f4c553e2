"""Runs the real command on a miniature of the demo's data, for tests that kill and compare it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

TINY = [
    "data.train_size=60",
    "training.epochs=2",
    "training.batch_size=16",
    "schedule.warmup_epochs=0",
    "machine.threads=1",
    "machine.accelerator=cpu",
    "model.name=vit_micro_patch7_28",
    "objective.locality.student_blocks=[0, 1, 3]",
    "teacher.overrides=[training.epochs=1, schedule.warmup_epochs=0, model.name=cifar_resnet8]",
]
"""Makes `demo` a matter of seconds."""


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """Starts `vitrellis WORDS` and returns at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "vitrellis", *words],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Waits for the command, checks its exit code, and returns what it printed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return out + err


def run(*words: str, cwd: Path, code: int = 0) -> str:
    """Runs `vitrellis WORDS` to its end."""
    return finish(start(*words, cwd=cwd), code)


def wait_for(event: str, path: Path, process: subprocess.Popen[str]) -> None:
    """Waits until a file exists that marks an event; fails if the command ends before it."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, f"it ended before: {event}"
        assert time.monotonic() < deadline, f"did not happen: {event}"
        time.sleep(0.01)


def weights(run_directory: Path) -> dict[str, Tensor]:
    """The last weights of a run, and the whole state it would continue from."""
    state = torch.load(run_directory / "checkpoints" / "last.ckpt", weights_only=True)
    flat = {f"guided.{name}": value for name, value in state["guided"].items()}
    for number, moments in state["optimizer"]["state"].items():
        flat |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    flat |= load_file(run_directory / "last" / "model.safetensors")
    return {name: value for name, value in flat.items() if isinstance(value, Tensor)}


def assert_same_weights(first: Path, second: Path) -> None:
    """Bit by bit: student, projections, optimizer moments."""
    mine, theirs = weights(first), weights(second)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different, different
