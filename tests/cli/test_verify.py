"""`vitrellis verify`: what it prints, and its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.command import run_here


@pytest.fixture
def folder(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place / "runs", tmp_path / "runs")
    return tmp_path


def test_a_run_as_it_was_written(folder: Path) -> None:
    ended = run_here("verify", "runs/x", cwd=folder)
    assert "Nothing is damaged or missing.\n" in ended.out
    assert "model/model.safetensors" in ended.out
    assert ended.err == ""
    values = json.loads(run_here("verify", "runs/x", "--json", cwd=folder).out)
    assert values["good"] is True
    assert {file["state"] for file in values["files"]} == {"ok"}


def test_damaged_files(folder: Path) -> None:
    weights = folder / "runs" / "x" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    recipe = folder / "runs" / "x" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    ended = run_here("verify", "runs/x", "--json", cwd=folder, code=1)
    values = json.loads(ended.out)
    bad = {file["file"] for file in values["files"] if file["state"] == "damaged"}
    assert bad == {"model/model.safetensors", "recipe.yaml"}
    assert "model.safetensors: damaged" in run_here("verify", "runs/x", cwd=folder, code=1).err
    for command in (["predict", "runs/x", "x.png"], ["eval", "runs/x"]):
        assert "recipe.yaml: damaged" in run_here(*command, cwd=folder, code=1).err


def test_what_the_messages_advise_for_files_that_were_changed_on_purpose(folder: Path) -> None:
    run = folder / "runs" / "x"
    recipe = run / "recipe.yaml"
    lines = recipe.read_text().splitlines(keepends=True)
    recipe.write_text("".join([*lines[:-1], "# mine\n", lines[-1]]))
    data = run / "data.json"
    data.write_text(data.read_text().replace("T-shirt/top", "shirt"))
    values = json.loads(run_here("verify", "runs/x", "--json", cwd=folder, code=1).out)
    details = {file["file"]: file["detail"] for file in values["files"] if file["detail"]}
    advice = "vitrellis verify runs/x --accept takes it as it is"
    assert advice in details["recipe.yaml"]
    assert advice in details["data.json"]
    ended = run_here("verify", "runs/x", "--accept", cwd=folder)
    assert "note: data.json: taken as it is\nnote: recipe.yaml: taken as it is\n" in ended.err
    assert "Nothing is damaged or missing.\n" in ended.out
    assert "# mine\n" in recipe.read_text()
    again = run_here("verify", "runs/x", "--accept", cwd=folder)
    assert "note: no file was changed" in again.err


def test_a_folder_that_is_no_run(folder: Path) -> None:
    assert "no run directory" in run_here("verify", ".", cwd=folder, code=1).err
