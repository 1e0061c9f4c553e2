"""What a start does to the folder that it is given, and what becomes of the advice in messages."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from rich.console import Console

import vitrellis
from tests.runs.edited import unsealed
from vitrellis.assembly.launch import Finished
from vitrellis.assembly.run_folder import locked
from vitrellis.data.loader import VIEWS_VERSION
from vitrellis.data.sources import Source
from vitrellis.errors import UsageError, VitrellisError
from vitrellis.recipe import Recipe, digest, identity, recipe_from, teacher_recipe
from vitrellis.runs import marker
from vitrellis.runs.directory import RunDirectory
from vitrellis.runs.verification import verify_run
from vitrellis.training.display import Display


def images(count: int = 24) -> Source:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    pixels = torch.randint(0, 80, (24, 3, 28, 28), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(24), labels] += 120
    return vitrellis.from_tensors(pixels[:count], labels[:count])


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny",
        "data": {"val_fraction": 0.25},
        "input": {"img_size": 28},
        "augmentation": {"crop": "padded", "padding": 2},
        "model": {"name": "vit_micro_patch7_28"},
        "optimizer": {"lr": 1e-3},
        "training": {"epochs": 1, "batch_size": 12},
        "machine": {"accelerator": "cpu", "threads": 1},
    }
    return recipe_from(values | changes)


def train(out: Path, *, fresh: bool = False, count: int = 24, **changes: Any) -> Finished:
    return vitrellis.train(recipe(**changes), source=images(count), out=out, fresh=fresh)


def guided(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of a teacher in a file, and what a student needs to learn from it."""
    teacher = folder / "teacher.yaml"
    if not teacher.exists():
        teacher.write_text(json.dumps(recipe().model_dump(mode="json") | {"name": "guide"}))
    objective: dict[str, Any] = {"cross_entropy": {}, "kd": {}}
    return {"teacher": {"recipe": str(teacher)}, "objective": objective} | changes


def content(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["recipe.yaml", "data.json", "thesis.txt", ".lock"])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, name: str, fresh: bool) -> None:
    (tmp_path / name).write_text("model: soup\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    before = content(tmp_path)
    with pytest.raises(UsageError, match="is not a run directory"):
        train(tmp_path, fresh=fresh)
    assert content(tmp_path) == before


def test_fresh_deletes_what_we_wrote_and_keeps_the_rest(tmp_path: Path) -> None:
    run = train(tmp_path / "run").run
    (run.path / "notes.txt").write_text("mine")
    (run.path / "model" / "model.onnx").write_text("mine")
    (run.path / "checkpoints" / ".last.ckpt.tmp").write_text("left by a kill")
    (run.path / "data").mkdir()
    before = run.results_file.stat().st_mtime_ns
    assert marker.other_files(run) == ["data", "model/model.onnx", "notes.txt"]
    train(run.path, fresh=True, seed=1)
    assert run.results_file.stat().st_mtime_ns > before
    assert run.read_results().seed == 1
    assert len(run.read_metrics()) == 1
    assert marker.other_files(run) == ["data", "model/model.onnx", "notes.txt"]
    assert not (run.path / "checkpoints" / ".last.ckpt.tmp").exists()
    assert len(list((run.path / "tensorboard").iterdir())) == 1


def test_nothing_but_our_files_is_in_a_run(tmp_path: Path) -> None:
    """The list of our files is complete: else `fresh` would leave something of the old run."""
    run = train(tmp_path / "run", **guided(tmp_path, training={"epochs": 1, "ema": 0.9})).run
    assert marker.other_files(run) == []
    marker.delete(run)
    assert not run.path.exists()


@pytest.mark.parametrize("before", [None, VIEWS_VERSION - 1, VIEWS_VERSION])
def test_a_run_that_goes_on_with_other_crops_says_so(tmp_path: Path, before: int | None) -> None:
    run = train(tmp_path / "run").run
    assert run.read_data().views_version == VIEWS_VERSION
    run.write_data(replace(run.read_data(), views_version=before))
    told = io.StringIO()
    console = Console(file=told, width=300)
    vitrellis.train(recipe(), source=images(), out=run.path, console=console)
    assert "resized" not in told.getvalue()  # nothing is trained any more
    run.results_file.unlink()
    vitrellis.train(recipe(), source=images(), out=run.path, console=console)
    assert ("resized" in told.getvalue()) == (before != VIEWS_VERSION)


def test_the_run_of_an_earlier_version_is_known_by_its_files(tmp_path: Path) -> None:
    run = train(tmp_path / "run").run
    run.marker_file.unlink()
    train(run.path)
    assert marker.read_marker(run) == marker.Marker(has_checksums=False)
    run.data_file.write_text(json.dumps(unsealed(run.data_file)))  # as that version wrote it
    assert run.read_data().class_names
    assert verify_run(run).is_good
    for name in ("data.json", ".lock"):
        run.marker_file.unlink(missing_ok=True)
        (run.path / name).unlink()
        with pytest.raises(UsageError, match="is not a run directory"):
            train(run.path, fresh=True)
        train(tmp_path / "other")
        shutil.copy(tmp_path / "other" / name, run.path)


def test_a_run_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    marker.write_marker(run, marker.Marker(format=marker.FORMAT + 1))
    with pytest.raises(VitrellisError, match="a later version"):
        train(tmp_path, fresh=True)


def test_what_another_process_began_anew_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was emptying the directory when we looked, and its run was complete when it let us in."""
    before = train(tmp_path / "run", fresh=True)
    written = before.run.results_file.stat().st_mtime_ns
    monkeypatch.setattr("vitrellis.assembly.launch.is_being_emptied", lambda run: True)
    assert train(tmp_path / "run").results == before.results
    assert before.run.results_file.stat().st_mtime_ns == written


def test_fresh_deletes_nothing_before_all_else_is_right(tmp_path: Path) -> None:
    run = train(tmp_path / "run").run
    before = content(run.path)
    wrong: list[dict[str, Any]] = [
        {"model": {"name": "nonsense"}},
        {"init": {"weights": tmp_path / "gone.pth"}},
        {"input": {"img_size": 3}},
        guided(tmp_path, objective={"locality": {"student_blocks": [0, 1, 99]}}),
        guided(tmp_path, teacher={"run": str(tmp_path / "gone")}),
        guided(tmp_path, teacher={"given": True}),
    ]
    for changes in wrong:
        with pytest.raises(VitrellisError):
            train(run.path, fresh=True, **changes)
        assert content(run.path) == before
    assert not (tmp_path / "teachers").exists()


def test_a_start_that_failed_does_not_block_the_corrected_command(tmp_path: Path) -> None:
    settings = guided(tmp_path)
    with (
        mock.patch("vitrellis.assembly.parts.build_objective", side_effect=UsageError("wrong")),
        pytest.raises(UsageError, match="wrong"),
    ):
        train(tmp_path / "run", **settings)
    run = train(tmp_path / "run", **guided(tmp_path), optimizer={"lr": 2e-3}).run
    assert run.read_results().epochs == 1
    with pytest.raises(UsageError, match=r"optimizer\.lr: 0\.002 → 0\.003"):
        train(tmp_path / "run", **guided(tmp_path), optimizer={"lr": 3e-3})


def test_another_photograph_leads_to_another_teacher(tmp_path: Path) -> None:
    """Both ways out that the message names are gone, and the old teacher stays."""
    settings = guided(tmp_path)
    run = train(tmp_path / "run", count=23, **settings).run
    (old,) = (tmp_path / "teachers").iterdir()
    before = content(old)
    with pytest.raises(UsageError, match=r"trained on other images.*\n.*--fresh.*--out"):
        train(run.path, **settings)
    assert list((tmp_path / "teachers").iterdir()) == [old]
    train(tmp_path / "other", **settings)
    assert len(list((tmp_path / "teachers").iterdir())) == 2
    train(run.path, fresh=True, **settings)
    assert len(list((tmp_path / "teachers").iterdir())) == 2
    assert content(old) == before


def test_the_teacher_of_an_earlier_version_is_taken(tmp_path: Path) -> None:
    """Its folder was named by its recipe alone."""
    settings = guided(tmp_path)
    train(tmp_path / "run", **settings)
    (new,) = (tmp_path / "teachers").iterdir()
    teacher = teacher_recipe(recipe(**settings), "teacher")
    earlier = new.rename(new.with_name(f"guide-{digest(identity(teacher))}"))
    assert earlier != new
    train(tmp_path / "second", **settings)
    assert list((tmp_path / "teachers").iterdir()) == [earlier]
    train(tmp_path / "third", count=23, **settings)
    assert len(list((tmp_path / "teachers").iterdir())) == 2


def test_a_complete_run_is_trained_on_from_its_weights(tmp_path: Path) -> None:
    """As the message says that is shown when it is asked for more epochs."""
    run = train(tmp_path / "run").run
    longer = {"epochs": 2, "batch_size": 12}
    with pytest.raises(UsageError, match=r"training\.epochs: 1 → 2") as error:
        train(run.path, training=longer)
    weights = next(w for w in str(error.value).split() if w.startswith("init.weights="))
    path = weights.removeprefix("init.weights=")
    train(tmp_path / "longer", training=longer, init={"weights": path})
    train(run.path, training=longer, fresh=True)


@pytest.mark.parametrize("way", ["deleted", "emptied", "moved"])
def test_a_run_that_is_deleted_while_it_trains_says_so(tmp_path: Path, way: str) -> None:
    run = RunDirectory(tmp_path / "run")
    advance = Display.advance

    def deleting(self: Display, epoch: int, step: int, *rest: Any) -> None:
        advance(self, epoch, step, *rest)
        if (epoch, step) == (1, 1) and way == "moved":
            run.path.rename(tmp_path / "elsewhere")
        elif (epoch, step) == (1, 1):
            shutil.rmtree(run.path)
            if way == "emptied":
                run.path.mkdir()

    settings: dict[str, Any] = {"training": {"epochs": 3, "batch_size": 12}}
    with (
        mock.patch.object(Display, "advance", deleting),
        pytest.raises(VitrellisError, match="deleted or moved") as error,
    ):
        train(run.path, **settings)
    assert error.value.exit_code == 1
    assert not run.path.exists() or not list(run.path.iterdir())
    train(tmp_path / "elsewhere" if way == "moved" else run.path, **settings)


def test_the_weights_that_a_run_began_with_may_be_gone(tmp_path: Path) -> None:
    weights = train(tmp_path / "first").run.last_model / "model.safetensors"
    shutil.copy(weights, tmp_path / "start.safetensors")
    init = {"weights": tmp_path / "start.safetensors"}
    settings: dict[str, Any] = {"init": init, "training": {"epochs": 2, "batch_size": 12}}
    whole = train(tmp_path / "whole", **settings).run
    run = train(tmp_path / "run", **settings).run
    run.results_file.unlink()
    os.remove(tmp_path / "start.safetensors")  # noqa: PTH107
    train(run.path, **settings)
    last = "last/model.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()


def test_a_complete_run_needs_no_teacher_that_was_deleted(tmp_path: Path) -> None:
    settings = guided(tmp_path)
    finished = train(tmp_path / "run", **settings)
    assert finished.teachers.keys() == {"teacher"}
    shutil.rmtree(tmp_path / "teachers")
    again = train(tmp_path / "run", **settings)
    assert again.results == finished.results
    assert not (tmp_path / "teachers").exists()
    assert not again.teachers
    again.run.results_file.unlink()  # one that is not complete trains it, which the copy is kept of
    assert train(tmp_path / "run", **settings).teachers.keys() == {"teacher"}


def test_a_student_waits_for_its_teacher(tmp_path: Path) -> None:
    """Another process trains the teacher that both share; here it only holds the lock."""
    settings = guided(tmp_path)
    train(tmp_path / "first", **settings)
    (teacher,) = (tmp_path / "teachers").iterdir()
    printed = io.StringIO()
    ended: list[Finished] = []

    def second() -> None:
        console = Console(file=printed, width=300)
        out, source = tmp_path / "second", images()
        ended.append(vitrellis.train(recipe(**settings), source=source, out=out, console=console))

    thread = threading.Thread(target=second)
    with locked(RunDirectory(teacher), Console(quiet=True)):
        thread.start()
        while thread.is_alive() and "waiting" not in printed.getvalue():
            time.sleep(0.01)
        assert f"{teacher}: another process trains this teacher" in printed.getvalue()
        assert not ended
    thread.join()
    assert ended[0].results.epochs == 1


def test_two_commands_in_one_folder(tmp_path: Path) -> None:
    run = train(tmp_path / "run").run
    with (
        locked(run, Console(quiet=True)),
        pytest.raises(UsageError, match="another process is training here"),
    ):
        train(run.path)
