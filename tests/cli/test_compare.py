"""`vitrellis compare` and `vitrellis demo`, which is built on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis
from tests.training.command import FEW_IMAGES, TINY, write_few_images
from vitrellis.experiments import comparison_plan
from vitrellis.recipe import Recipe, load_recipe

(SHORT_TEACHER,) = (word for word in TINY if word.startswith("teacher"))
SAME_FOR_ALL = [word for word in TINY if not word.startswith(("objective", "teacher"))]
GUIDED = """
extends: demo-lg
data: {train_size: 60}
model: {name: vit_micro_patch7_28}
teacher: {overrides: [training.epochs=1, schedule.warmup_epochs=0, model.name=cifar_resnet8]}
objective: {locality: {student_blocks: [0, 1, 3]}}
"""


def test_controls_are_trained_and_nothing_is_done_twice(tmp_path: Path) -> None:
    (tmp_path / "guided.yaml").write_text(GUIDED)
    words = ["compare", "guided.yaml", "demo-alone", *SAME_FOR_ALL, "--seeds", "1"]
    words += ["--out", "runs/c"]
    rows = json.loads(run_apart(*words, "--controls", "--json", cwd=tmp_path).out)["rows"]
    assert [(row["role"], row["arm"]) for row in rows] == [
        ("student", "guided"),
        ("student", "demo-alone"),  # is the guided student without guidance: no second control
        ("control", "demo-alone, same seconds"),
        ("teacher", "demo-teacher"),
    ]
    guided, alone, longer, _ = rows
    assert guided["epochs"] == alone["epochs"] == 2 <= longer["epochs"]
    for row in rows:
        results = json.loads((tmp_path / str(row["run"]) / "results.json").read_text())
        assert row["epochs"] == results["epochs"]
        assert row["figures"] == {
            key: results["best"]["test"][key] for key in ("top1", "balanced_accuracy", "macro_f1")
        }
    before = (tmp_path / "runs/c/seed0/guided/results.json").stat().st_mtime_ns
    again = run_here(*words, "--metric", "macro_f1", cwd=tmp_path).out
    assert (tmp_path / "runs/c/seed0/guided/results.json").stat().st_mtime_ns == before
    assert "test macro-F1 %" in again
    assert "gain over guided" in again
    assert "One run of each is an anecdote" in again


def test_folds_are_units(tmp_path: Path) -> None:
    words = ["compare", "demo-alone", *SAME_FOR_ALL, "training.epochs=1", "--folds", "2"]
    words += ["--seeds", "1", "--json", "--plot", "pictures/c.png"]
    rows = json.loads(run_here(*words, cwd=tmp_path).out)["rows"]
    assert [row["unit"] for row in rows] == ["seed0-fold0", "seed0-fold1"]
    with Image.open(tmp_path / "pictures" / "c.png") as picture:
        assert picture.format == "PNG"


def test_wrong_words_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for words, message in (
        (["seed=3"], "no recipe given"),
        (["demo", "demo"], "demo: given twice"),
        (["demo", "demoo"], "unknown recipe 'demoo'. Did you mean 'demo'?"),
        (["demo", "--metric", "top5"], "unknown metric 'top5'"),
        (["demo", "--baseline", "alone"], "unknown baseline 'alone'"),
        (["demo-alone", "data.fold=1"], "folds and fold belong together"),
    ):
        assert_one_error(vitrellis("compare", *words, cwd=tmp_path), 2, message)
    assert not list(tmp_path.iterdir())


def test_the_demo_takes_changes_that_suit_every_student(tmp_path: Path) -> None:
    ended = run_apart("demo", SHORT_TEACHER, cwd=tmp_path, code=2)
    assert ": teacher: " in ended.err  # the student alone has none to shorten
    assert ended.out == ""
    assert not list(tmp_path.iterdir())


def test_the_demo_prints_its_table_and_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_short_teacher(name: str, overrides: Sequence[str]) -> Recipe:
        recipe = load_recipe(name, overrides)
        return load_recipe(name, [*overrides, SHORT_TEACHER]) if recipe.all_teachers else recipe

    monkeypatch.setattr(comparison_plan, "load_recipe", with_short_teacher)
    words = ["training.epochs=1", "schedule.warmup_epochs=0", "data.train_size=60"]
    words += ["machine.threads=1", "model.name=vit_micro_patch7_28"]
    out = run_here("demo", *words, cwd=tmp_path).out
    for text in ("CNN teacher", "ViT alone, same seconds", "at equal seconds (teacher included)"):
        assert text in out
    rows = json.loads((tmp_path / "runs/demo/summary.json").read_text())
    assert [row["arm"] for row in rows] == [
        "CNN teacher",
        "ViT alone",
        "ViT guided",
        "ViT alone, same seconds",
    ]
    assert (tmp_path / "runs/demo/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_trainings_at_the_same_time_have_the_figures_of_single_ones(tmp_path: Path) -> None:
    (tmp_path / "guided.yaml").write_text(GUIDED)
    (tmp_path / "other.yaml").write_text("extends: guided.yaml\nseed: 0\ntraining: {epochs: 3}\n")
    words = ["compare", "guided.yaml", "other.yaml", *SAME_FOR_ALL, "--seeds", "1", "--controls"]
    words += ["--equal", "multiply-adds", "--json", FEW_IMAGES]
    write_few_images(tuple(words), tmp_path)
    rows = {}
    for jobs in ("1", "2"):
        ended = run_apart(*words, "--jobs", jobs, "--out", f"runs/{jobs}", cwd=tmp_path)
        rows[jobs] = [
            {key: row[key] for key in ("arm", "role", "unit", "epochs", "figures", "val_top1")}
            for row in json.loads(ended.out)["rows"]
        ]
    assert rows["1"] == rows["2"]
    assert len(list((tmp_path / "runs/2/seed0/teachers").iterdir())) == 1
