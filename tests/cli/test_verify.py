"""`vitrellis verify`: what it prints, and its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.command import run_here
from tests.runs.edited import unsealed


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
    assert "delete its last line" in details["recipe.yaml"]
    assert "delete its key 'sha256'" in details["data.json"]
    recipe.write_text("".join([*lines[:-1], "# mine\n"]))
    data.write_text(json.dumps(unsealed(data)))
    ended = run_here("verify", "runs/x", cwd=folder)
    assert "2 of " in ended.out
    assert "have no checksum" in ended.out


def test_a_folder_that_is_no_run(folder: Path) -> None:
    assert "no run directory" in run_here("verify", ".", cwd=folder, code=1).err
