"""`vitrellis eval` and `vitrellis predict` on a run that a short training made."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score

from tests.training.command import run
from vitrellis.data.sources import load_source
from vitrellis.training.exported import load_exported

WORDS = ["train", "demo-alone", "data.train_size=60", "training.epochs=1", "machine.threads=1"]
WORDS += ["schedule.warmup_epochs=0", "training.batch_size=16", "machine.accelerator=cpu"]
WORDS += ["model.name=vit_micro_patch7_28", "--out", "runs/x"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and some test images as files."""
    folder = tmp_path_factory.mktemp("place")
    run(*WORDS, cwd=folder)
    test = load_source("fashion-mnist", None).test
    assert test is not None
    for index in range(6):
        path = folder / "images" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(test.images[index][0].numpy()).save(path)
    return folder


def command(place: Path, *words: str, code: int = 0, stdin: str = "") -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vitrellis", *words],
        cwd=place,
        text=True,
        capture_output=True,
        input=stdin,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_eval_json_against_scikit_learn(place: Path) -> None:
    figures: dict[str, Any] = json.loads(command(place, "eval", "runs/x", "--json")[0])
    test = load_source("fashion-mnist", None).test
    assert test is not None
    trained = load_exported(place / "runs" / "x" / "model")
    images = torch.stack([test.images[index] for index in range(len(test))])
    guess = torch.cat([trained.predict(part).argmax(dim=1) for part in images.split(500)])
    assert figures["split"] == "test"
    assert figures["images"] == 4000
    assert figures["top1"] == pytest.approx((guess == test.labels).double().mean().item())
    assert figures["macro_f1"] == pytest.approx(f1_score(test.labels, guess, average="macro"))
    assert figures["confusion"] == confusion_matrix(test.labels, guess).tolist()
    stored = json.loads((place / "runs" / "x" / "results.json").read_text())
    assert stored["best"]["test"]["top1"] == pytest.approx(figures["top1"])


def test_eval_table_and_picture(place: Path) -> None:
    out, _ = command(
        place, "eval", "runs/x", "--split", "val", "--weights", "last", "--confusion", "c.png"
    )
    assert "last checkpoint, 1,000 val images" in out
    assert "Ankle boot" in out
    with Image.open(place / "c.png") as picture:
        assert picture.format == "PNG"


def test_eval_of_what_is_no_run(place: Path) -> None:
    _, err = command(place, "eval", "images", code=1)
    assert "runs/x" in err


def test_predict_equals_evaluation(place: Path) -> None:
    rows = json.loads(command(place, "predict", "runs/x", "images", "--json", "--top", "10")[0])
    test = load_source("fashion-mnist", None).test
    assert test is not None
    trained = load_exported(place / "runs" / "x" / "model")
    expected = trained.predict([test.images[index] for index in range(6)])
    for row, probabilities in zip(rows, expected, strict=True):
        for guess in row["predictions"]:
            k = trained.class_names.index(guess["class"])
            assert guess["probability"] == pytest.approx(probabilities[k].item(), abs=1e-6)


def test_predict_csv_from_stdin(place: Path) -> None:
    out, _ = command(place, "predict", "runs/x", "-", "--csv", stdin="images/0.png\nimages/3.png\n")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["file"] for row in rows] == ["images/0.png", "images/3.png"]
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)


def test_predict_goes_on_after_a_bad_image(place: Path) -> None:
    (place / "bad.png").write_text("text")
    out, err = command(place, "predict", "runs/x", "bad.png", "images/1.png", "--csv", code=1)
    assert "bad.png" in err
    assert "images/1.png" in out
    assert "bad.png" not in out


def test_predict_nothing(place: Path) -> None:
    (place / "empty").mkdir(exist_ok=True)
    _, err = command(place, "predict", "runs/x", "empty", code=1)
    assert "holds no images" in err
    command(place, "predict", "runs/x", code=2)
