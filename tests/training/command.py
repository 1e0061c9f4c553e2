"""The real command on a few images, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor

from vitrellis.cli.main import main
from vitrellis.data.sources import TensorImages, load_source

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

FEW_IMAGES = "data.root=fashion"
"""Takes 120 training and 40 test images, where the packaged data has 7,000 to evaluate and read."""


def run(*words: str, cwd: Path, code: int = 0) -> str:
    """Does what `vitrellis WORDS` does in `cwd`, in this process, and returns what it prints."""
    write_few_images(words, cwd)
    printed = io.StringIO()
    ended: str | int | None = 0
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", ["vitrellis", *words]),
    ):
        try:
            main()
        except SystemExit as end:
            ended = end.code
    assert (ended or 0) == code, f"exit code {ended}\n{printed.getvalue()}"
    return printed.getvalue()


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """Starts `python -m vitrellis WORDS` and returns at once."""
    write_few_images(words, cwd)
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


def weights(run_directory: Path) -> dict[str, Tensor]:
    """The last weights of a run, and the whole state that it would be resumed from."""
    state = torch.load(run_directory / "checkpoints" / "last.ckpt", weights_only=True)
    flat = {
        f"{part}.{name}": value
        for part in ("guided", "ema", "teachers")
        for name, value in state.get(part, {}).items()
    }
    for number, moments in state["optimizer"]["state"].items():
        flat |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    flat |= load_file(run_directory / "last" / "model.safetensors")
    return {name: value for name, value in flat.items() if isinstance(value, Tensor)}


def assert_same_weights(first: Path, second: Path) -> None:
    """Bit by bit: student, projections, moving average, optimizer moments, drifting teachers."""
    mine, theirs = weights(first), weights(second)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different, different


def write_few_images(words: tuple[str, ...], cwd: Path) -> None:
    """Writes the images that `FEW_IMAGES` names, if a command line does."""
    folder = cwd / "fashion"
    if FEW_IMAGES in words and not folder.exists():
        folder.mkdir()
        for name, content in _few_images().items():
            (folder / name).write_bytes(content)


@cache
def _few_images() -> dict[str, bytes]:
    """The four idx files with the first 12 training and 4 test images of each class."""
    source = load_source("fashion-mnist", None)
    files = {}
    for name, split, count in (("train", source.train, 12), ("t10k", source.test, 4)):
        assert split is not None
        assert isinstance(split.images, TensorImages)
        rows = torch.cat([(split.labels == k).nonzero()[:count, 0] for k in range(10)])
        for kind, values in (
            ("images-idx3", split.images.tensor[rows, 0]),
            ("labels-idx1", split.labels[rows].to(torch.uint8)),
        ):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            files[f"{name}-{kind}-ubyte"] = header + values.numpy().tobytes()
    return files
