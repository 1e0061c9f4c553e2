"""`vitrellis compare` and `vitrellis demo`, which is built on it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import assert_one_error, vitrellis
from tests.training.command import TINY

SAME_FOR_ALL = [word for word in TINY if not word.startswith(("objective", "teacher"))]
GUIDED = """
extends: demo-lg
data: {train_size: 60}
model: {name: vit_micro_patch7_28}
teacher: {overrides: [training.epochs=1, schedule.warmup_epochs=0, model.name=cifar_resnet8]}
objective: {locality: {student_blocks: [0, 1, 3]}}
"""


def rows_of(*words: str, cwd: Path) -> list[dict[str, object]]:
    ended = vitrellis("compare", *words, "--json", cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    rows: list[dict[str, object]] = json.loads(ended.stdout)["rows"]
    return rows


def test_controls_are_trained_and_nothing_is_done_twice(tmp_path: Path) -> None:
    (tmp_path / "guided.yaml").write_text(GUIDED)
    words = ["guided.yaml", "demo-alone", *SAME_FOR_ALL, "--seeds", "1", "--out", "runs/c"]
    rows = rows_of(*words, "--controls", cwd=tmp_path)
    assert [(row["role"], row["arm"]) for row in rows] == [
        ("student", "guided"),
        ("student", "demo-alone"),  # is the guided student without guidance: no second control
        ("control", "demo-alone, same seconds"),
        ("teacher", "demo-teacher"),
    ]
    guided, alone, longer, teacher = rows
    assert guided["epochs"] == alone["epochs"] == 2
    spent = float(str(guided["seconds"])) + float(str(teacher["seconds"]))
    expected = max(2, round(2 * spent / float(str(alone["seconds"]))))
    assert longer["epochs"] == expected
    for row in rows:
        results = json.loads((tmp_path / str(row["run"]) / "results.json").read_text())
        assert row["figures"] == {
            key: results["best"]["test"][key] for key in ("top1", "balanced_accuracy", "macro_f1")
        }
    before = (tmp_path / "runs/c/seed0/guided/results.json").stat().st_mtime_ns
    again = vitrellis("compare", *words, "--metric", "macro_f1", cwd=tmp_path)
    assert (tmp_path / "runs/c/seed0/guided/results.json").stat().st_mtime_ns == before
    assert "test macro-F1 %" in again.stdout
    assert "gain over guided" in again.stdout
    assert "One run of each is an anecdote" in again.stdout


def test_folds_are_units(tmp_path: Path) -> None:
    words = ["demo-alone", *SAME_FOR_ALL, "--folds", "2", "--seeds", "1"]
    rows = rows_of(*words, cwd=tmp_path)
    assert [row["unit"] for row in rows] == ["seed0-fold0", "seed0-fold1"]


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


def test_the_demo_prints_its_table_and_its_verdict(tmp_path: Path) -> None:
    words = ["training.epochs=2", "schedule.warmup_epochs=0", "data.train_size=60"]
    words += ["machine.threads=1"]
    short = "teacher.overrides=[training.epochs=1, schedule.warmup_epochs=0]"
    ended = vitrellis("demo", *words, short, cwd=tmp_path)
    assert_one_error(ended, 2, "teacher")  # the student alone has none to shorten
    ended = vitrellis("demo", *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for text in ("CNN teacher", "DHVT alone, same seconds", "at equal seconds (teacher included)"):
        assert text in ended.stdout
    rows = json.loads((tmp_path / "runs/demo/summary.json").read_text())
    assert [row["arm"] for row in rows] == [
        "CNN teacher",
        "DHVT alone",
        "DHVT guided",
        "DHVT alone, same seconds",
    ]
    assert (tmp_path / "runs/demo/curves.png").read_bytes().startswith(b"\x89PNG")
