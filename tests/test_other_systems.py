"""What Windows lacks is not needed: modules and functions of POSIX are hidden, and a run trains.

What it has instead is left to filelock, psutil and torch, which are made for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitrellis.runs import atomic

SCRIPT = """
import importlib, os, pkgutil, signal, sys
import filelock, lightning.fabric, matplotlib.pyplot, PIL.Image, psutil, rich.progress, timm, torch
import torch.utils.data, torch.utils.tensorboard, torchvision.transforms.v2

for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in {
    os: ("fork", "getuid", "killpg", "posix_fallocate", "sched_getaffinity", "statvfs", "sysconf"),
    signal: ("SIGCHLD", "SIGKILL", "SIGUSR1", "pthread_sigmask", "sigwaitinfo"),
}.items():
    for name in names:
        delattr(module, name)

import vitrellis
for found in pkgutil.walk_packages(vitrellis.__path__, "vitrellis."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
recipe = vitrellis.load_recipe("demo-alone", [
    "data.train_size=40", "training.epochs=1", "schedule.warmup_epochs=0", "machine.workers=0",
    "machine.threads=1", "model.name=vit_micro_patch7_28", "model.args=null",
])
finished = vitrellis.train(recipe, out="run")
assert finished.results.best.test is not None
again = vitrellis.train(recipe, out="run")
assert again.results == finished.results
"""


def test_a_run_needs_nothing_of_posix(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_folders_are_not_opened_where_that_is_impossible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str, flags: int, *mode: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, flags, *mode)

    opens = os.open
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", opened)
    atomic.write_json(tmp_path / "values.json", {"a": 1})
    assert (tmp_path / "values.json").read_text() == '{\n  "a": 1\n}\n'
