"""A run that a short real training made, and the command run inside this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.command import run
from vitrellis.cli.main import main
from vitrellis.data.sources import Split, load_source

QUICK = ["training.epochs=1", "schedule.warmup_epochs=0", "training.batch_size=16"]
QUICK += ["machine.threads=1", "machine.accelerator=cpu"]


class Ended(NamedTuple):
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command(folder, *words, code=0, stdin="")` does what `vitrellis WORDS` does in `folder`."""

    def invoke(folder: Path, *words: str, code: int = 0, stdin: str = "") -> Ended:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["vitrellis", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as end:
            main()
        ended = Ended(*capsys.readouterr())
        assert (end.value.code or 0) == code, ended
        return ended

    return invoke


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def test_images() -> Split:
    test = load_source("fashion-mnist", None).test
    assert test is not None
    return test


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, test_images: Split) -> Path:
    """A folder with `runs/x`, and the first eight test images as files in `images`."""
    folder = tmp_path_factory.mktemp("place")
    words = ["data.train_size=60", "model.name=vit_micro_patch7_28", "--out", "runs/x"]
    run("train", "demo-alone", *QUICK, *words, cwd=folder)
    (folder / "images" / "more").mkdir(parents=True)
    for index in range(8):
        where = folder / "images" / ("more" if index > 5 else "")
        Image.fromarray(test_images.images[index][0].numpy()).save(where / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def photo_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with colour `photos` of two classes and `runs/photos`, trained on them."""
    folder = tmp_path_factory.mktemp("photo-place")
    pixels = np.random.default_rng(0)
    for name in ("ash", "fir"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(10):
            image = pixels.integers(0, 255, (20, 24 + index, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "photos" / name / f"{index}.png")
    words = ["data.root=photos", "model.name=vit_micro_patch8_64", "--out", "runs/photos"]
    run("train", "photos-alone", *QUICK, *words, cwd=folder)
    return folder
