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

from tests.cli.command import Ended, run_apart, run_here
from vitrellis.data.sources import Split
from vitrellis.runs.exported import load_exported


@pytest.fixture(scope="module")
def figures(place: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(run_here("eval", "runs/x", "--json", cwd=place).out)
    return loaded


@pytest.fixture(scope="module")
def of_photos(photo_place: Path) -> Ended:
    return run_here("eval", "runs/photos", cwd=photo_place)


def test_json_against_scikit_learn(
    figures: dict[str, Any], place: Path, test_images: Split
) -> None:
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


def test_text_of_the_real_command_agrees_with_json(figures: dict[str, Any], place: Path) -> None:
    out, err = run_apart("eval", "runs/x", cwd=place)
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


@pytest.mark.parametrize(("split", "count"), [("val", "1,000"), ("train", "60")])
def test_other_images_and_weights(place: Path, split: str, count: str) -> None:
    words = ["eval", "runs/x", "--split", split, "--weights", "last"]
    title = run_here(*words, cwd=place).out.splitlines()[0]
    assert title == f"runs/x: last checkpoint, {count} {split} images"


def test_confusion_is_a_picture(place: Path) -> None:
    run_here("eval", "runs/x", "--confusion", "pictures/c.png", cwd=place)
    with Image.open(place / "pictures" / "c.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_a_picture_that_cannot_be_written(place: Path) -> None:
    (place / "file").write_text("")
    err = run_here("eval", "runs/x", "--confusion", "file/c.png", cwd=place, code=2).err
    assert "file is a file, and no folder" in err


def test_what_is_no_run(place: Path) -> None:
    assert "no run directory" in (err := run_here("eval", "images", cwd=place, code=1).err)
    assert "runs/x" in err
    assert "does not exist" in run_here("eval", "runs/y", cwd=place, code=1).err


def test_an_unfinished_run(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place / "runs" / "x", copy)
    (copy / "results.json").unlink()
    ended = run_here("eval", "copy", cwd=tmp_path)
    assert "training is not complete" in ended.err
    assert "not complete" not in ended.out
    shutil.rmtree(copy / "last")
    err = run_here("eval", "copy", "--weights", "last", cwd=tmp_path, code=1).err
    assert "copy/last: holds no model" in err


def test_images_of_which_there_are_none(of_photos: Ended, photo_place: Path) -> None:
    assert "val images" in of_photos.out
    err = run_here("eval", "runs/photos", "--split", "test", cwd=photo_place, code=2).err
    assert "no test images, only train and val" in err


def test_two_classes_have_no_top_5(of_photos: Ended) -> None:
    assert "top-5" not in of_photos.out


def test_moved_images(of_photos: Ended, photo_place: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_place / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "photos" / "provenance.json").unlink()  # it says where they were
    assert "--root" in run_here("eval", "runs/photos", cwd=tmp_path, code=1).err
    moved = tmp_path / "elsewhere"
    shutil.copytree(photo_place / "photos", moved)
    words = ["eval", "runs/photos", "--root", "elsewhere"]
    assert run_here(*words, cwd=tmp_path) == of_photos

    (moved / "ash" / "0.png").unlink()
    assert "not the same images as in training" in run_here(*words, cwd=tmp_path).err

    (moved / "fir").rename(moved / "oak")
    err = run_here(*words, cwd=tmp_path, code=1).err
    assert "the images lack fir; the model does not know oak" in err
