"""`vitrellis eval` of a model with two heads that a short training on a long tail made."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn import metrics as sk

from tests.cli.command import run_here
from tests.cli.conftest import QUICK
from tests.runs.edited import unsealed
from vitrellis.data.sources import Split
from vitrellis.runs.checksums import write_sealed_json
from vitrellis.runs.exported import load_exported

TAIL = ["data.train_size=null", "data.long_tail.imbalance_factor=36", "data.long_tail.largest=180"]
COUNTS = [180, 120, 81, 54, 36, 24, 16, 11, 7, 5]
"""The sizes of classes that fall from 180 by a factor of 36; the packaged set has 200 of each."""


@pytest.fixture(scope="module")
def tail_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/tail`, and in `printed.txt` what its training printed."""
    folder = tmp_path_factory.mktemp("tail-place")
    words = [*TAIL, "model.name=deit_tiny_distilled_patch16_224", "--out", "runs/tail"]
    words += ["model.args.depth=1", "model.args.patch_size=7"]
    words += ["objective.kd.head=distillation", "teacher.recipe=null"]
    words += ["teacher.model=cifar_resnet8"]  # untrained: enough to keep the heads apart
    printed = run_here("train", "demo-lskd", *QUICK, *words, cwd=folder).out
    (folder / "printed.txt").write_text(printed)
    return folder


@pytest.fixture(scope="module")
def figures(tail_place: Path) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(run_here("eval", "runs/tail", "--json", cwd=tail_place).out)
    return out


@torch.no_grad()
def test_figures_of_each_head_against_scikit_learn(
    figures: dict[str, Any], tail_place: Path, test_images: Split
) -> None:
    trained = load_exported(tail_place / "runs" / "tail" / "model")
    model: Any = trained.model
    images = torch.stack([test_images.images[index] for index in range(len(test_images))])
    labels = test_images.labels
    seen = trained.preprocessing.transform()(images)
    tokens = torch.cat([model.forward_features(part) for part in seen.split(500)])
    logits = {"class": model.head(tokens[:, 0]), "distillation": model.head_dist(tokens[:, 1])}
    logits["average"] = (logits["class"] + logits["distillation"]) / 2
    assert list(figures["heads"]) == list(logits)
    for name, values in logits.items():
        guess, head = values.argmax(dim=1), figures["heads"][name]
        assert head["top1"] == pytest.approx(sk.accuracy_score(labels, guess), abs=1e-3)
        recall = sk.recall_score(labels, guess, average=None)
        assert head["recall"] == pytest.approx(recall, abs=3e-3)
        assert head["balanced_accuracy"] == pytest.approx(
            sk.balanced_accuracy_score(labels, guess), abs=1e-3
        )
        for group, classes in {"head": [0, 1], "mid": range(2, 6), "tail": range(6, 10)}.items():
            entry = head["groups"][0][group]
            assert entry["classes"] == len(classes)
            assert entry["accuracy"] == pytest.approx(recall[list(classes)].mean(), abs=3e-3)


def test_json_has_counts_and_agrees_with_the_results(
    figures: dict[str, Any], tail_place: Path
) -> None:
    assert [row["training_images"] for row in figures["per_class"]] == COUNTS
    assert [grouping["by"] for grouping in figures["groups"]] == ["training images"]
    results = json.loads((tail_place / "runs" / "tail" / "results.json").read_text())
    stored = results["best"]["test"]
    assert stored["balanced_accuracy"] == pytest.approx(figures["balanced_accuracy"])
    assert list(stored["heads"]) == ["class", "distillation", "average"]
    for group in ("head", "mid", "tail"):
        ours, theirs = figures["groups"][0][group], stored["groups"][0][group]
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"])


def test_text_has_a_row_for_each_group_and_a_column_for_each_head(
    tail_place: Path, figures: dict[str, Any]
) -> None:
    lines = run_here("eval", "runs/tail", cwd=tail_place).out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("accuracy %, mean over"))
    assert lines[start].endswith("classes  class head  distillation head  average")
    percents = [f"{100 * head['balanced_accuracy']:.2f}" for head in figures["heads"].values()]
    assert lines[start + 2].split() == ["all", "classes", "10", *percents]
    tail = [f"{100 * h['groups'][0]['tail']['accuracy']:.2f}" for h in figures["heads"].values()]
    assert lines[start + 3] == "by training images:"
    assert lines[start + 6].split() == ["tail:", "fewer", "than", "20", "4", *tail]
    boots = next(line for line in lines if line.startswith("Ankle boot"))
    assert boots.split()[2:4] == ["5", "400"]


def test_the_tables_fit_a_terminal_of_80_columns(
    tail_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    out = re.sub(r"\x1b\[[0-9;]*m", "", run_here("eval", "runs/tail", cwd=tail_place).out)
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(len, lines)) <= 80
    for heading in ("average", "most taken for"):  # the last column, so that none is wrapped
        assert sum(line.endswith(heading) for line in lines) == 1
    start = next(n for n, line in enumerate(lines) if line.startswith("class "))
    end = next(n for n, line in enumerate(lines) if line.startswith("true, predicted as"))
    assert end - start == 13  # a heading, a rule, ten classes, an empty line


def test_training_prints_the_groups(tail_place: Path) -> None:
    printed = (tail_place / "printed.txt").read_text()
    assert "10 classes (5 to 180 training images each)" in printed
    assert printed.count("(by training images)") == 2
    assert "balance=true" in printed


def test_a_balanced_training_says_so(tail_place: Path) -> None:
    words = [*TAIL, "model.name=vit_micro_patch7_28", "balance=true", "--out", "runs/balanced"]
    balanced = run_here("train", "demo-alone", *QUICK, *words, cwd=tail_place).out
    assert "balance=true" not in balanced
    assert "class-balanced accuracy" in balanced
    chosen = json.loads((tail_place / "runs/balanced/results.json").read_text())["best"]
    assert f"(balanced {100 * chosen['val_balanced']:.2f} %)" in balanced
    assert "(balanced softmax" in balanced


def test_groups_of_ones_own(tail_place: Path) -> None:
    words = ["eval", "runs/tail", "--groups", "50,10", "--json"]
    (grouping,) = json.loads(run_here(*words, cwd=tail_place).out)["groups"]
    assert [grouping[name]["classes"] for name in ("head", "mid", "tail")] == [4, 4, 2]
    assert grouping["tail"]["meaning"] == "fewer than 10"


@pytest.mark.parametrize("text", ["50", "10,50", "a,b", "50,-1", "1,2,3", ""])
def test_groups_that_make_no_sense(tail_place: Path, text: str) -> None:
    err = run_here("eval", "runs/tail", f"--groups={text}", cwd=tail_place, code=2).err
    assert f"--groups {text!r}: should be two whole numbers" in err


def test_a_picture_against_counts(tail_place: Path) -> None:
    run_here("eval", "runs/tail", "--plot-counts", "pictures/counts.png", cwd=tail_place)
    with Image.open(tail_place / "pictures" / "counts.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_a_folder_is_no_picture(tail_place: Path) -> None:
    err = run_here("eval", "runs/tail", "--plot-counts", ".", cwd=tail_place, code=2).err
    assert ".: is a folder. Give the name of a file to write" in err


def test_a_balanced_run_has_no_groups(place: Path) -> None:
    figures = json.loads(run_here("eval", "runs/x", "--json", cwd=place).out)
    assert figures["groups"] == []
    assert figures["heads"] == {}
    assert "mean over" not in run_here("eval", "runs/x", cwd=place).out
    assert "more than 5" in run_here("eval", "runs/x", "--groups", "5,5", cwd=place).out


def test_counts_that_are_not_known(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs" / "x", tmp_path / "x")
    data = unsealed(tmp_path / "x" / "data.json")
    write_sealed_json(tmp_path / "x" / "data.json", data | {"class_counts": None})
    assert "trained on" not in run_here("eval", "x", cwd=tmp_path).out
    for words in (["--groups", "50,10"], ["--plot-counts", "c.png"]):
        err = run_here("eval", "x", *words, cwd=tmp_path, code=1).err
        assert "is not known, as it was imported without images" in err
