from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis


def test_blocks_are_shown_and_drawn(place: Path) -> None:
    words = ["show", "blocks", "runs/x", "--images", "40", "--plot", "b.png"]
    lines = run_apart(*words, cwd=place).out.splitlines()
    assert lines[0] == "runs/x: 40 images"
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2", "3"]
    assert (place / "b.png").read_bytes().startswith(b"\x89PNG")
    (place / "b.png").unlink()


def test_blocks_as_json(place: Path) -> None:
    out = run_here("show", "blocks", "runs/x", "--images", "40", "--json", cwd=place).out
    shown = json.loads(out)
    assert shown["images"] == 40
    for row in shown["blocks"]:
        assert 0 < row["nearest"] <= row["distance"] <= row["farthest"] < 40
        assert 1 <= row["rank"] <= row["width"]
        assert 1 <= row["components"] <= row["width"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert_one_error(vitrellis("show", "blocks", "nothing", cwd=tmp_path), 1, "does not exist")


def picture(path: Path) -> npt.NDArray[np.uint8]:
    """`(H, W, 3)` of what must be a PNG."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (["tokens", "runs/x"], 1 + 9),
        (["tokens", "runs/x", "images", "--rates", "0.7,0.5", "--layers", "1"], 1 + 2),
        (["attention", "runs/x", "--weights", "last"], 1 + 4 + 1),
        (["attention", "runs/x", "images/0.png", "--heads"], 1 + 3),
        (["mistakes", "runs/x", "--images", "6"], 6),
    ],
)
def test_pictures_of_images(place: Path, words: list[str], columns: int) -> None:
    out = run_here("show", *words, "--out", "a picture.png", cwd=place).out
    assert "a picture.png" in out
    drawn = picture(place / "a picture.png")
    (place / "a picture.png").unlink()
    # a cell is 1.15 inches wide, at 150 dots an inch, and there are more pixels for labels
    assert columns * 1.15 * 150 < drawn.shape[1]
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100


def test_each_image_has_a_file_of_its_heads(place: Path) -> None:
    words = ["show", "attention", "runs/x", "images", "--heads", "--images", "2", "--out", "h.png"]
    ended = run_here(*words, "--device", "cpu", "--json", cwd=place)
    told = {"run": "runs/x", "images": ["0.png", "1.png"], "files": ["h-1.png", "h-2.png"]}
    assert json.loads(ended.out) == told
    assert "the first 2 of 8 images" in ended.err
    assert sorted(file.name for file in place.glob("h*.png")) == ["h-1.png", "h-2.png"]
    for file in place.glob("h*.png"):
        file.unlink()


def test_mistakes_as_json_are_those_of_eval(place: Path) -> None:
    words = ["show", "mistakes", "runs/x", "--images", "5", "--json"]
    shown = json.loads(run_here(*words, cwd=place).out)
    assert shown["files"] == ["mistakes.png"]
    (place / "mistakes.png").unlink()
    figures = json.loads(run_here("eval", "runs/x", "--json", cwd=place).out)
    assert 1 - shown["wrong"] / shown["images"] == pytest.approx(figures["top1"])
    chances = [row["probability"] for row in shown["mistakes"]]
    assert chances == sorted(chances, reverse=True)
    for row in shown["mistakes"]:
        assert row["class"] != row["predicted"]
        assert row["class_probability"] <= row["probability"]


def test_mistakes_in_another_precision(place: Path, tmp_path: Path) -> None:
    words = ["show", "mistakes", "runs/x", "--images", "1", "--out", str(tmp_path / "m.png")]
    words += ["--json", "--device", "cpu", "--precision"]
    exact, rounded = (
        json.loads(run_here(*words, name, cwd=place).out)["mistakes"][0]["probability"]
        for name in ("float32", "bfloat16")
    )
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.1)


def test_mistakes_in_folders_that_are_named_as_classes(photo_place: Path) -> None:
    shown = json.loads(
        run_here("show", "mistakes", "runs/photos", "photos", "--json", cwd=photo_place).out
    )
    predicted = json.loads(
        run_here("predict", "runs/photos", "photos", "--json", cwd=photo_place).out
    )
    wrong = {
        row["file"]
        for row in predicted
        if row["predictions"][0]["class"] != Path(row["file"]).parent.name
    }
    assert {row["image"] for row in shown["mistakes"]} <= wrong
    assert (shown["images"], shown["wrong"]) == (20, len(wrong))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tokens", "runs/x", "--rates", "0"], 2, "keep_rate: 0.0 is not above 0"),
        (["tokens", "runs/x", "--rates", "0.7;0.5"], 2, "should be numbers with commas"),
        (["tokens", "runs/x", "--layers", "7"], 2, "there is no layer 7, only 0 to 3"),
        (["attention", "runs/x", "--of", "head"], 2, "has no head tokens, which DHVT alone has"),
        (["attention", "runs/x", "images", "--split", "val"], 2, "not both"),
        (["attention", "runs/x", "no.png"], 1, "no.png"),
        (["maps", "runs/x"], 2, "was trained without locality guidance"),
        (["mistakes", "runs/x", "images"], 1, "'images', is no class of the model"),
        (["mistakes", "runs/x", "--out", "images"], 2, "is a folder"),
    ],
)
def test_what_cannot_be_drawn(place: Path, words: list[str], code: int, message: str) -> None:
    before = set(place.iterdir())
    assert_one_error(vitrellis("show", *words, cwd=place), code, message)
    assert set(place.iterdir()) == before
