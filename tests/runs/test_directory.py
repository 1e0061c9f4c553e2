"""A run directory's log and how it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitrellis.errors import VitrellisError
from vitrellis.runs.directory import RunDirectory, find_run


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


def test_a_run_that_begins_anew_replaces_what_is_there(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for epoch in range(3):
        run.append_metrics({"epoch": epoch, "loss": 1.0})
    with run.metrics_file.open("a") as file:
        file.write('{"epoch": 3, "lo')
    for epoch in range(2):  # killed before its first checkpoint, so it starts at 0
        run.append_metrics({"epoch": epoch, "loss": 2.0})
    assert run.read_metrics() == [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 2.0}]


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


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.metrics_file.write_text('{"epoch": 0}\n\x00\n{"epoch": 2}\n')
    with pytest.raises(VitrellisError, match=r"metrics\.jsonl: line 2 is damaged"):
        run.read_metrics()


def test_figures_that_cannot_be_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "nowhere")
    with pytest.raises(VitrellisError, match=r"could not write .*metrics\.jsonl: No such file"):
        run.append_metrics({"epoch": 0})
    assert run.read_metrics() == []


def test_results_round_trip(tmp_path: Path) -> None:
    results = {"best": {"epoch": 3, "val_top1": 0.1 + 0.2}}
    RunDirectory(tmp_path).write_results(results)
    assert RunDirectory(tmp_path).read_results() == results


def test_a_part_of_a_run_leads_to_it(tmp_path: Path) -> None:
    run = tmp_path / "x"
    (run / "model").mkdir(parents=True)
    (run / "recipe.yaml").write_text("")
    for path in (run / "model", run / "recipe.yaml"):
        with pytest.raises(VitrellisError, match=rf"Runs there are: {run}$"):
            find_run(path)


def test_no_runs_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitrellisError, match="There are no runs below it"):
        find_run(tmp_path)


def test_many_runs_are_not_all_listed(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"run{number}").mkdir()
        (tmp_path / f"run{number}" / "recipe.yaml").write_text("")
    with pytest.raises(VitrellisError, match=r"run4, and 2 more$"):
        find_run(tmp_path)
