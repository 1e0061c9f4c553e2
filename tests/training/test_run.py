"""A run directory's log and how it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitrellis.errors import VitrellisError
from vitrellis.training.run import RunDirectory, find_run


def test_epochs_that_will_be_done_again_are_dropped(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for epoch in range(4):
        run.append_metrics({"epoch": epoch})
    run.truncate_metrics(from_epoch=2)
    assert [row["epoch"] for row in run.read_metrics()] == [0, 1]


def test_a_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics({"epoch": 0})
    with run.metrics_file.open("a") as file:
        file.write('{"epoch": 1, "lo')
    assert [row["epoch"] for row in run.read_metrics()] == [0]
    run.truncate_metrics(from_epoch=1)
    run.append_metrics({"epoch": 1})
    assert [row["epoch"] for row in run.read_metrics()] == [0, 1]


def test_no_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    (other / "recipe.yaml").write_text("")
    with pytest.raises(VitrellisError, match=r"is no run directory.*runs/other"):
        find_run(tmp_path)
    with pytest.raises(VitrellisError, match="does not exist"):
        find_run(tmp_path / "nowhere")
    assert find_run(Path("runs/other")).path == Path("runs/other")


def test_results_of_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="not complete"):
        RunDirectory(tmp_path).read_results()
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(VitrellisError, match=r"results\.json: damaged"):
        RunDirectory(tmp_path).read_results()
