"""A run directory's log and how it is found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runs.edited import unsealed
from vitrellis.errors import VitrellisError
from vitrellis.runs.directory import RunDirectory, find_run
from vitrellis.runs.results import CheckpointFigures, EpochRow, Results, RunData, SplitFigures


def row(epoch: int, loss: float = 1.0) -> EpochRow:
    return EpochRow(
        epoch=epoch,
        step=epoch + 1,
        seconds=1.0,
        lr=0.1,
        images_per_second=10.0,
        loss=loss,
        parts={"cross_entropy": loss},
        weights={"cross_entropy": 1.0},
        train_top1=0.5,
    )


def test_epochs_that_will_be_done_again_are_dropped(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for epoch in range(4):
        run.append_metrics(row(epoch))
    run.truncate_metrics(from_epoch=2)
    assert [row.epoch for row in run.read_metrics()] == [0, 1]


def test_a_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics(row(0))
    with run.metrics_file.open("a") as file:
        file.write('{"epoch": 1, "lo')
    assert [row.epoch for row in run.read_metrics()] == [0]
    run.truncate_metrics(from_epoch=1)
    run.append_metrics(row(1))
    assert [row.epoch for row in run.read_metrics()] == [0, 1]


def test_a_run_that_begins_anew_replaces_what_is_there(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for epoch in range(3):
        run.append_metrics(row(epoch, loss=1.0))
    with run.metrics_file.open("a") as file:
        file.write('{"epoch": 3, "lo')
    run.truncate_metrics(from_epoch=0)  # killed before its first checkpoint, so it starts at 0
    for epoch in range(2):
        run.append_metrics(row(epoch, loss=2.0))
    assert run.read_metrics() == [row(0, loss=2.0), row(1, loss=2.0)]


def test_an_epoch_round_trips_with_the_same_bits(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    rows = [row(0, loss=0.1 + 0.2), replace(row(1), val_top1=1 / 3, val_balanced=0.2, val_loss=2.0)]
    for one in rows:
        run.append_metrics(one)
    assert run.read_metrics() == rows
    first = json.loads(run.metrics_file.read_text().splitlines()[0])
    assert "val_top1" not in first
    assert first["loss"] == 0.1 + 0.2


def test_no_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    (other / "recipe.yaml").write_text("")
    with pytest.raises(VitrellisError, match=r"\(it has no data\.json\)\. There are no runs below"):
        find_run(other)
    (other / "data.json").write_text("{}")
    with pytest.raises(VitrellisError, match=r"is no run directory.*runs/other"):
        find_run(tmp_path)
    with pytest.raises(VitrellisError, match="does not exist"):
        find_run(tmp_path / "nowhere")
    assert find_run(Path("runs/other")).path == Path("runs/other")


def test_results_of_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(VitrellisError, match="not complete"):
        RunDirectory(tmp_path).read_results()
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(VitrellisError, match=r"results\.json: .*damaged"):
        RunDirectory(tmp_path).read_results()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    line = json.dumps(row(0).to_json())
    run.metrics_file.write_text(f"{line}\n\x00\n{line}\n")
    with pytest.raises(VitrellisError, match=r"metrics\.jsonl: line 2 is damaged"):
        run.read_metrics()


def test_figures_that_cannot_be_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "nowhere")
    with pytest.raises(VitrellisError, match=r"could not write .*metrics\.jsonl: No such file"):
        run.append_metrics(row(0))
    assert run.read_metrics() == []


def test_figures_that_are_not_finite_are_not_logged(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics(row(0))
    with pytest.raises(VitrellisError, match=r"metrics\.jsonl: .*loss is nan"):
        run.append_metrics(row(1, loss=float("nan")))
    assert run.read_metrics() == [row(0)]
    with run.metrics_file.open("a") as file:
        file.write(run.metrics_file.read_text().replace("1.0", "NaN"))
    with pytest.raises(VitrellisError, match=r"line 2 is damaged.*NaN"):
        run.read_metrics()


def results() -> Results:
    test = {"top1": 0.75, "balanced_accuracy": 0.5, "macro_f1": 0.4, "confusion": [[1]]}
    return Results(
        recipe="demo",
        model="m",
        parameters=3,
        seed=0,
        epochs=4,
        seconds=1.5,
        images_per_second=0.1 + 0.2,
        best=CheckpointFigures(3, 1 / 3, 0.25, SplitFigures.from_json(test, Path("x"))),
        last=CheckpointFigures(3),
    )


def test_results_round_trip(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_results(results())
    assert run.read_results() == results()
    content = json.loads(run.results_file.read_text())
    assert content["best"]["test"]["confusion"] == [[1]]
    assert content["images_per_second"] == 0.1 + 0.2


@pytest.mark.parametrize("key", ["seconds", "best.epoch", "best.test.top1"])
def test_a_key_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    run = RunDirectory(tmp_path)
    run.write_results(results())
    content = unsealed(run.results_file)
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    del section[last]
    run.results_file.write_text(json.dumps(content))
    with pytest.raises(VitrellisError, match=rf"results\.json: .*{re.escape(key)}"):
        run.read_results()


def test_results_of_the_first_version_are_read(tmp_path: Path) -> None:
    """They had no `select_by`, groups or class-balanced validation accuracy."""
    run = RunDirectory(tmp_path)
    run.write_results(results())
    content = unsealed(run.results_file)
    del content["select_by"], content["best"]["val_balanced"], content["last"]["val_top1"]
    run.results_file.write_text(json.dumps(content))
    assert run.read_results().select_by == "top1"


def test_data_of_a_run_round_trip(tmp_path: Path) -> None:
    data = RunData("f" * 16, ("cat", "dog"), (3, 4), {"teacher": {"seed": 0}})
    run = RunDirectory(tmp_path)
    run.write_data(data)
    assert run.read_data() == data
    run.data_file.write_text('{"class_names": []}')
    with pytest.raises(VitrellisError, match=r"data\.json: .*fingerprint"):
        run.read_data()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_counts": [3]}, "class_counts should be 2 numbers"),
        ({"class_counts": [3, -1]}, "class_counts should be 2 numbers"),
        ({"class_counts": [3, None]}, "class_counts"),
        ({"class_names": ["cat", "cat"]}, "class_names should differ"),
        ({"class_names": "cat"}, "class_names"),
        ({"teachers": ["cnn"]}, "teachers"),
        ({"checked_images": 3}, "checked_images"),
    ],
)
def test_data_that_contradict_themselves(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    """A file without its checksum, as earlier versions wrote it."""
    run = RunDirectory(tmp_path)
    run.write_data(RunData("f" * 16, ("cat", "dog"), (3, 4)))
    run.data_file.write_text(json.dumps(unsealed(run.data_file) | changed))
    with pytest.raises(VitrellisError, match=rf"data\.json: damaged .*{message}"):
        run.read_data()


def test_a_part_of_a_run_leads_to_it(tmp_path: Path) -> None:
    run = tmp_path / "x"
    (run / "model").mkdir(parents=True)
    (run / "recipe.yaml").write_text("")
    (run / "data.json").write_text("{}")
    for path in (run / "model", run / "recipe.yaml"):
        with pytest.raises(VitrellisError, match=rf"Runs there are: {run}$"):
            find_run(path)


def test_no_runs_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitrellisError, match="no runs below it"):
        find_run(tmp_path)


def test_many_runs_are_not_all_listed(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"run{number}").mkdir()
        (tmp_path / f"run{number}" / "recipe.yaml").write_text("")
        (tmp_path / f"run{number}" / "data.json").write_text("{}")
    with pytest.raises(VitrellisError, match=r"run4, and 2 more$"):
        find_run(tmp_path)
