"""A run finds its images again when a command is called from another folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.command import run_here
from tests.cli.conftest import QUICK
from vitrellis.assembly.images_of_run import images_of_run
from vitrellis.errors import VitrellisError
from vitrellis.runs.checksums import write_sealed_json
from vitrellis.runs.directory import RunDirectory

RESUME = ("photos-alone", *QUICK, "model.name=vit_micro_patch8_64")


@pytest.fixture
def project(photo_place: Path, tmp_path: Path) -> Path:
    """A copy of a project with a run and its `photos`, beside an empty folder `other`."""
    project = tmp_path / "project"
    shutil.copytree(photo_place, project)
    (tmp_path / "other").mkdir()
    return project


def places(run: Path) -> Path:
    recipe, _ = images_of_run(RunDirectory(run))
    assert recipe.data.root is not None
    return recipe.data.root.absolute()


def test_every_command_finds_them_from_elsewhere(photo_place: Path, tmp_path: Path) -> None:
    run = str(photo_place / "runs" / "photos")
    figures = json.loads(run_here("eval", run, "--json", cwd=photo_place).out)
    assert json.loads(run_here("eval", run, "--json", cwd=tmp_path).out) == figures
    run_here("show", "blocks", run, cwd=tmp_path)
    run_here("show", "mistakes", run, cwd=tmp_path)
    run_here("export", run, "--format", "timm", "--out", "as-timm", cwd=tmp_path)
    words = ("--keep-rate", "0.7", "--seconds", "0.01", "--out", "fast")
    run_here("prune", run, *words, cwd=tmp_path)
    run_here("eval", "fast", cwd=tmp_path)
    again = run_here("train", *RESUME, "data.root=photos", "--out", run, cwd=tmp_path)
    assert "complete" in again.out
    again = run_here("train", *RESUME, f"data.root={photo_place / 'photos'}", "--out", run)
    assert "complete" in again.out


def test_a_run_may_be_moved_with_its_images(
    project: Path, photo_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "other")
    run = project / "runs" / "photos"
    assert places(run) == photo_place / "photos"  # those of its start are still there
    file = run / "provenance.json"
    starts = file.read_text().replace(str(photo_place), str(tmp_path / "gone"))
    write_sealed_json(file, {"starts": json.loads(starts)["starts"]})
    assert places(run) == project / "photos"


def test_of_two_folders_of_that_name_the_fingerprint_decides(
    photo_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = photo_place / "runs" / "photos"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert places(run) == photo_place / "photos"
    (tmp_path / "photos").rmdir()
    shutil.copytree(photo_place / "photos", tmp_path / "photos")
    assert places(run) == tmp_path / "photos"
    next((tmp_path / "photos" / "fir").iterdir()).unlink()
    assert places(run) == photo_place / "photos"


def test_a_run_does_not_go_on_with_other_images(project: Path, tmp_path: Path) -> None:
    next((project / "photos" / "fir").iterdir()).unlink()
    words = ("data.root=../project/photos", "--out", "../project/runs/photos")
    assert (
        "trained on other images"
        in run_here("train", *RESUME, *words, cwd=tmp_path / "other", code=2).err
    )


def test_images_that_are_nowhere_are_told_with_the_places(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "other")
    run = project / "runs" / "photos"
    (run / "provenance.json").unlink()
    with pytest.raises(VitrellisError) as caught:
        images_of_run(RunDirectory(run))
    assert str(tmp_path / "other" / "photos") in str(caught.value)
    assert "--root FOLDER" in str(caught.value)
    again = run_here("train", *RESUME, "data.root=photos", "--out", str(run), code=1)
    assert "data.root=FOLDER" in again.err
    with pytest.raises(VitrellisError, match=r"--root: there is nothing at .*nowhere"):
        images_of_run(RunDirectory(run), Path("nowhere"))
