"""`vitrellis eval` on runs that short trainings made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn import metrics as sk

from tests.cli.conftest import Command
from tests.training.command import run
from vitrellis.data.sources import Split
from vitrellis.runs.exported import load_exported


def test_json_against_scikit_learn(command: Command, place: Path, test_images: Split) -> None:
    figures: dict[str, Any] = json.loads(command(place, "eval", "runs/x", "--json").out)
    trained = load_exported(place / "runs" / "x" / "model")
    images = torch.stack([test_images.images[index] for index in range(len(test_images))])
    guess, labels = trained.predict(images).argmax(dim=1), test_images.labels
    assert (figures["run"], figures["split"], figures["weights"]) == ("runs/x", "test", "best")
    assert figures["images"] == 4000
    assert figures["top1"] == pytest.approx(sk.accuracy_score(labels, guess))
    assert figures["macro_f1"] == pytest.approx(sk.f1_score(labels, guess, average="macro"))
    assert figures["confusion"] == sk.confusion_matrix(labels, guess).tolist()
    stored = json.loads((place / "runs" / "x" / "results.json").read_text())
    assert stored["best"]["test"]["top1"] == pytest.approx(figures["top1"])


def test_text_agrees_with_json(command: Command, place: Path) -> None:
    out, err = command(place, "eval", "runs/x")
    figures = json.loads(command(place, "eval", "runs/x", "--json").out)
    lines = out.splitlines()
    assert err == ""
    assert lines[0] == "runs/x: best checkpoint, 4,000 test images"
    assert lines[1].split() == ["top-1", f"{100 * figures['top1']:.2f}", "%"]
    assert lines[6].split() == ["log", "loss", f"{figures['nll']:.3f}"]
    assert len({len(line) for line in lines[1:6]}) == 1  # aligned
    boots = next(line for line in lines if line.startswith("Ankle boot"))
    assert boots.split()[3:5] == ["400", f"{100 * figures['per_class'][9]['recall']:.2f}"]
    row = next(line for line in lines if line.startswith(" 9 Ankle boot"))
    assert [int(count) for count in row.split()[3:]] == figures["confusion"][9]
    assert "\x1b" not in out


def test_by_the_real_command(place: Path) -> None:
    assert "runs/x: best checkpoint, 4,000 test" in run("eval", "runs/x", cwd=place)


@pytest.mark.parametrize(("split", "count"), [("val", "1,000"), ("train", "60")])
def test_other_images_and_weights(command: Command, place: Path, split: str, count: str) -> None:
    words = ["eval", "runs/x", "--split", split, "--weights", "last"]
    title = command(place, *words).out.splitlines()[0]
    assert title == f"runs/x: last checkpoint, {count} {split} images"


def test_confusion_is_a_picture(command: Command, place: Path) -> None:
    command(place, "eval", "runs/x", "--confusion", "pictures/c.png")
    with Image.open(place / "pictures" / "c.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_a_picture_that_cannot_be_written(command: Command, place: Path) -> None:
    (place / "file").write_text("")
    err = command(place, "eval", "runs/x", "--confusion", "file/c.png", code=1).err
    assert "could not write file/c.png" in err


def test_what_is_no_run(command: Command, place: Path) -> None:
    assert "no run directory" in (err := command(place, "eval", "images", code=1).err)
    assert "runs/x" in err
    assert "does not exist" in command(place, "eval", "runs/y", code=1).err


def test_an_unfinished_run(command: Command, place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place / "runs" / "x", copy)
    (copy / "results.json").unlink()
    ended = command(tmp_path, "eval", "copy")
    assert "training is not complete" in ended.err
    assert "not complete" not in ended.out
    shutil.rmtree(copy / "last")
    err = command(tmp_path, "eval", "copy", "--weights", "last", code=1).err
    assert "copy/last: holds no model" in err


def test_images_of_which_there_are_none(command: Command, photo_place: Path) -> None:
    assert "val images" in command(photo_place, "eval", "runs/photos").out
    err = command(photo_place, "eval", "runs/photos", "--split", "test", code=2).err
    assert "no test images, only train and val" in err


def test_two_classes_have_no_top_5(command: Command, photo_place: Path) -> None:
    assert "top-5" not in command(photo_place, "eval", "runs/photos").out


def test_moved_images(command: Command, photo_place: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_place / "runs", tmp_path / "runs")
    assert "--root" in command(tmp_path, "eval", "runs/photos", code=1).err
    moved = tmp_path / "elsewhere"
    shutil.copytree(photo_place / "photos", moved)
    words = ["eval", "runs/photos", "--root", "elsewhere"]
    assert command(tmp_path, *words) == command(photo_place, "eval", "runs/photos")

    (moved / "ash" / "0.png").unlink()
    assert "not the same images as in training" in command(tmp_path, *words).err

    (moved / "fir").rename(moved / "oak")
    err = command(tmp_path, *words, code=1).err
    assert "the images lack fir; the model does not know oak" in err
