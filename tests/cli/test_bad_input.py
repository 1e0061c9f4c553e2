"""Bad input to a command: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.command import run_apart, run_here

QUICK = ["training.epochs=1", "schedule.warmup_epochs=0", "machine.accelerator=cpu"]
QUICK += ["model.name=vit_micro_patch8_64", "machine.threads=1"]


def photos(folder: Path, classes: tuple[str, ...] = ("ash", "fir"), each: int = 4) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = np.full((20 + index, 24, 3), 40 * number + 20, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")
    return folder


def fails(tmp_path: Path, *words: str, code: int) -> str:
    ended = run_here(*words, cwd=tmp_path, code=code)
    assert ended.err.startswith("error: ")
    return ended.err


def train_fails(tmp_path: Path, *words: str, code: int = 1) -> str:
    message = fails(tmp_path, "train", "photos-alone", *QUICK, *words, code=code)
    assert not list(tmp_path.glob("runs/**/*.yaml"))
    return message


def test_a_missing_folder_by_the_real_command(tmp_path: Path) -> None:
    ended = run_apart("train", "photos-alone", "data.root=nowhere", cwd=tmp_path, code=1)
    assert "nowhere" in ended.err
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.glob("runs/**/*.yaml"))


def test_more_processes_than_processors(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    message = train_fails(tmp_path, f"data.root={folder}", "machine.devices=1000", code=2)
    assert "machine.devices: 1000 processes, but this machine has" in message


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Files may have any name; what is written into files may not."""
    folder = photos(tmp_path / "photos", ("ash", os.fsdecode(b"caf\xe9")))
    message = train_fails(tmp_path, f"data.root={folder}")
    assert r"the class name b'caf\xe9' is not UTF-8" in message
    (folder / os.fsdecode(b"caf\xe9")).rename(folder / "fir")
    (folder / "fir" / "1.jpg").rename(folder / "fir" / os.fsdecode(b"\xfc.jpg"))
    words = [f"data.root={folder}", "--out"]
    message = train_fails(tmp_path, *words, os.fsdecode(b"runs/\xfc"), code=2)
    assert "the name is not UTF-8" in message
    run_here("train", "photos-alone", *QUICK, *words, "runs/x", cwd=tmp_path)


def test_arguments_that_the_source_does_not_take(tmp_path: Path) -> None:
    words = ["data.source=elpv", f"data.root={photos(tmp_path / 'photos')}"]
    message = train_fails(tmp_path, *words, "data.args.classes=3", code=2)
    assert "data.args.classes: 3; elpv has 2 classes" in message
    assert "unknown argument" in train_fails(tmp_path, *words, "data.args.klasses=4", code=2)


def test_a_long_tail_that_the_images_do_not_allow(tmp_path: Path) -> None:
    words = [f"data.root={photos(tmp_path / 'photos')}", "data.val_fraction=0"]
    message = train_fails(tmp_path, *words, "data.long_tail.imbalance_factor=9")
    assert "data.long_tail: class 'fir' would keep no image" in message
    message = train_fails(tmp_path, *words, "data.long_tail.largest=9")
    assert "class 'ash' has 4 images to train on and should keep 9" in message


def test_a_wrong_model_is_refused_before_anything_is_trained_or_written(tmp_path: Path) -> None:
    for recipe in ("demo", "demo-alone"):
        for word, hint, code in (
            ("model.name=resnt18", "Did you mean resnet18", 2),
            ("model.args.depht=2", "depht", 2),
            ("optimizer={name: lion, args: {lrr: 1}}", "lrr", 2),
            ("init.weights=none.pth", "none.pth", 1),
            ("model.distillation_head=true", "but no term trains it", 2),
            ("model.name=maxvit_tiny_rw_224", "cannot take images of 28x28 pixels", 2),
        ):
            words = ["train", recipe, "machine.accelerator=cpu", word]
            assert hint in fails(tmp_path, *words, code=code)
            assert not (tmp_path / "runs").exists(), (recipe, word)


def test_a_finished_teacher_that_is_not_there(tmp_path: Path) -> None:
    words = ["train", "demo", "machine.accelerator=cpu", "teacher.run=runs/gone"]
    assert "runs/gone does not exist" in fails(tmp_path, *words, code=1)
    assert not (tmp_path / "runs").exists()


def empty_class(folder: Path) -> str:
    (folder / "oak").mkdir()
    return "oak"


def text_as_png(folder: Path) -> str:
    (folder / "ash" / "note.png").write_text("not a picture")
    return "note.png"


def truncated(folder: Path) -> str:
    path = folder / "fir" / "2.jpg"
    os.truncate(path, path.stat().st_size - 100)
    return "2.jpg"


@pytest.mark.parametrize("spoil", [empty_class, text_as_png, truncated])
def test_spoilt_folders(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    folder = photos(tmp_path / "photos")
    name = spoil(folder)
    words = ["train", "photos-alone", *QUICK, "data.root=photos"]
    assert name in run_here(*words, cwd=tmp_path, code=1).err
    assert not list(tmp_path.glob("runs/**/results.json"))


def test_a_class_with_one_image_is_learned_from(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    photos(tmp_path / "more", classes=("yew",), each=1)
    (tmp_path / "more" / "yew").rename(folder / "yew")
    out = run_here("train", "photos-alone", *QUICK, "data.root=photos", cwd=tmp_path).out
    assert "3 classes" in out
    assert "1 to 4" in out or "1 to 3" in out


@pytest.mark.parametrize(
    ("word", "hints"),
    [
        ("training.epoch=3", ["training.epoch", "epochs"]),
        ("training.epochs=ten", ["training.epochs", "ten"]),
        ("training.batch_size=0", ["training.batch_size", "0"]),
        ("model.name=dhvt_mikro_patch4", ["dhvt_micro_patch4"]),
        ("data.source=cifar1000", ["cifar100"]),
    ],
)
def test_wrong_words(tmp_path: Path, word: str, hints: list[str]) -> None:
    photos(tmp_path / "photos")
    message = fails(tmp_path, "train", "photos-alone", "data.root=photos", word, code=2)
    for hint in hints:
        assert hint in message


def test_a_pickle_with_a_payload_posing_as_cifar(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps({b"data": Payload()}, protocol=2))
    message = train_fails(tmp_path, "data.source=cifar100", "data.root=cifar-100-python")
    assert "cifar-100-python" in message
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_model(tmp_path: Path) -> None:
    import torch

    photos(tmp_path / "photos")
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pt")
    words = ["train", "photos-alone", *QUICK, "data.root=photos", "init.weights=other.pt"]
    assert "other.pt" in fails(tmp_path, *words, code=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    message = fails(tmp_path, "train", "demo-alone", "machine.accelerator=cuda", code=2)
    assert "machine.accelerator: cuda, but torch finds no such device here. Use cpu" in message
    assert not any(tmp_path.iterdir())
