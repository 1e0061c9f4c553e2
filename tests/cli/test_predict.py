"""`vitrellis predict` on runs that short trainings made."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.command import run_apart, run_here
from vitrellis.analysis.inference import collect_logits
from vitrellis.assembly.build import Place, build_eval_loader
from vitrellis.data.sources import Split
from vitrellis.recipe import load_recipe
from vitrellis.runs.exported import load_exported

FILES = [f"images/{index}.png" for index in range(6)] + ["images/more/6.png", "images/more/7.png"]


def test_the_same_as_in_evaluation(place: Path, test_images: Split) -> None:
    rows = json.loads(
        run_here("predict", "runs/x", "images", "--json", "--top", "10", cwd=place).out
    )
    trained = load_exported(place / "runs" / "x" / "model")
    recipe = load_recipe(place / "runs" / "x" / "recipe.yaml")
    some = test_images.subset(torch.arange(8))
    loader = build_eval_loader(recipe, some, trained.preprocessing, Place(torch.device("cpu")))
    expected = collect_logits(trained.model, loader)[0].softmax(dim=1)
    assert [row["file"] for row in rows] == FILES
    for row, probabilities in zip(rows, expected.tolist(), strict=True):
        mine = {guess["class"]: guess["probability"] for guess in row["predictions"]}
        assert [mine[name] for name in trained.class_names] == pytest.approx(
            probabilities, abs=1e-6
        )
        assert list(mine.values()) == sorted(mine.values(), reverse=True)


def test_batches_change_nothing(place: Path) -> None:
    words = ["predict", "runs/x", "images", "--json"]
    together, apart = (json.loads(run_here(*words, *more, cwd=place).out) for more in ([], BATCHES))
    for one, other in zip(together, apart, strict=True):
        assert one["file"] == other["file"]
        assert one["predictions"][0]["class"] == other["predictions"][0]["class"]
        assert one["predictions"][0]["probability"] == pytest.approx(
            other["predictions"][0]["probability"], abs=1e-6
        )


BATCHES = ["--batch-size", "3"]


def test_table_by_the_real_command(place: Path) -> None:
    words = ["predict", "runs/x", "images/0.png", "images/more", "--top", "2"]
    out = run_apart(*words, cwd=place).out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["file", *["class", "probability", "%"] * 2]
    assert [line[0] for line in lines[1:]] == ["images/0.png", *FILES[6:]]
    assert "\x1b" not in out


def test_csv_of_a_list_on_stdin(place: Path) -> None:
    names = "images/0.png\r\n\nimages/3.png\n"
    ended = run_here("predict", "runs/x", "-", "--csv", "--top", "99", cwd=place, stdin=names)
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 11)] * 2
    assert {row["file"] for row in rows} == {"images/0.png", "images/3.png"}
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(2, abs=1e-4)
    assert ended.err == ""


def test_bad_images_are_named_and_the_others_predicted(place: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((60, 50), 80).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    words = ["predict", str(place / "runs" / "x"), ".", "missing.png", "--csv"]
    ended = run_here(*words, cwd=tmp_path, code=1)
    assert [row["file"] for row in csv.DictReader(io.StringIO(ended.out))] == ["whole.jpg"]
    lines = ended.err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["error", " cut.jpg"],
        ["error", " text.png"],
        ["error", " missing.png"],
    ]


def test_only_bad_images(place: Path) -> None:
    (place / "text.png").write_text("text")
    ended = run_here("predict", "runs/x", "text.png", cwd=place, code=1)
    assert ended.out == ""
    assert (
        json.loads(run_here("predict", "runs/x", "text.png", "--json", cwd=place, code=1).out) == []
    )


def test_no_images(place: Path, tmp_path: Path) -> None:
    assert "holds no images" in run_here("predict", "runs/x", str(tmp_path), cwd=place, code=1).err
    assert "standard input names none" in run_here("predict", "runs/x", "-", cwd=place, code=1).err
    assert "IMAGE" in run_here("predict", "runs/x", cwd=place, code=2).err


def test_json_or_csv(place: Path) -> None:
    err = run_here("predict", "runs/x", "images", "--json", "--csv", cwd=place, code=2).err
    assert err == "error: --json and --csv: choose one\n"


def test_colour_for_a_grey_model_is_its_luma(place: Path, tmp_path: Path) -> None:
    colours = Image.merge("RGB", [Image.effect_noise((40, 30), 90) for _ in range(3)])
    colours.save(tmp_path / "a.png")
    colours.convert("L").save(tmp_path / "b.png")
    rows = json.loads(
        run_here("predict", str(place / "runs" / "x"), ".", "--json", cwd=tmp_path).out
    )
    assert rows[0]["predictions"] == rows[1]["predictions"]


def test_grey_for_a_colour_model_is_repeated(photo_place: Path, tmp_path: Path) -> None:
    grey = Image.effect_noise((40, 30), 90)
    grey.save(tmp_path / "a.png")
    grey.convert("RGB").save(tmp_path / "b.png")
    rows = json.loads(
        run_here("predict", str(photo_place / "runs" / "photos"), ".", "--json", cwd=tmp_path).out
    )
    assert rows[0]["predictions"] == rows[1]["predictions"]
    assert rows[0]["predictions"][0]["class"] in ("ash", "fir")


def test_names_that_are_not_unicode(place: Path, tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"caf\xe9.png")
    name.symlink_to(place / "images" / "0.png")
    strict = {"PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "vitrellis", "predict", place / "runs" / "x", "-", "--json"],
        input=os.fsencode(name) + b"\n",
        capture_output=True,
        env=os.environ | strict,
        check=True,
    )
    assert [row["file"] for row in json.loads(ended.stdout)] == [f"{tmp_path}/caf\ufffd.png"]
