"""A finished run in a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitrellis.report.results_table import results_lines
from vitrellis.runs.results import Results

TEST: dict[str, Any] = {"top1": 0.75, "balanced_accuracy": 0.6, "macro_f1": 0.7123}


def results(**changes: Any) -> Results:
    complete: dict[str, Any] = {
        "recipe": "demo",
        "model": "m",
        "parameters": 1,
        "seed": 0,
        "epochs": 3,
        "seconds": 2.04,
        "images_per_second": 1234.5,
        "best": {"epoch": 1, "val_top1": 0.5, "test": TEST},
        "last": {"epoch": 2, "test": TEST | {"top1": 0.7}},
    }
    return Results.from_json(complete | changes, Path("results.json"))


def test_a_complete_run() -> None:
    assert results_lines(results()) == [
        "best  epoch 2 of 3  val 50.00 %  test 75.00 %, macro-F1 71.23 %",
        "last  epoch 3 of 3  test 70.00 %, macro-F1 71.23 %",
        "cost  2.0 s of training, 1,234 images/s",
    ]


def test_without_test_images() -> None:
    lines = results_lines(results(best={"epoch": 1, "val_top1": 0.5}, last={"epoch": 2}))
    assert lines[:2] == ["best  epoch 2 of 3  val 50.00 %", "last  epoch 3 of 3"]
    assert "no test figures" in lines[2]


def test_without_validation_images() -> None:
    lines = results_lines(results(best={"epoch": None, "val_top1": None, "test": TEST}))
    assert lines[0] == "best  not chosen: there are no validation images"
    assert lines[1].startswith("last  epoch 3 of 3  test 70.00 %")


def test_no_speed_is_invented() -> None:
    assert not any("images/s" in line for line in results_lines(results(images_per_second=None)))


def test_groups_of_an_unbalanced_set_have_a_line_of_their_own() -> None:
    accuracies = {"head": {"accuracy": 0.9}, "mid": {"accuracy": 0.5}, "tail": {"accuracy": None}}
    test = TEST | {"balanced_accuracy": 0.7, "groups": [{"by": "training images"} | accuracies]}
    lines = results_lines(results(last={"epoch": 2, "test": test}))
    assert lines[2] == (
        "      balanced 70.00 %  head 90.00 %  mid 50.00 %  tail -  (by training images)"
    )
