"""Models with NaN are refused at every door, and nothing is printed about them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.command import run_here
from vitrellis.errors import VitrellisError
from vitrellis.runs.exported import load_exported

WEIGHT = "blocks.1.attn.qkv.weight"
DOORS = {
    "eval": ["eval", "RUN"],
    "eval json": ["eval", "RUN", "--json"],
    "predict": ["predict", "RUN", "images"],
    "predict csv": ["predict", "RUN", "images", "--csv"],
    "show": ["show", "blocks", "RUN"],
    "bench": ["bench", "RUN", "--seconds", "0"],
    "teacher": ["train", "demo", "teacher.recipe=null", "teacher.overrides=null"],
    "initial weights": ["train", "demo-alone", "model.name=vit_micro_patch7_28"],
}


@pytest.fixture(scope="module")
def diverged(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose model file holds a NaN."""
    run = tmp_path_factory.mktemp("diverged") / "x"
    shutil.copytree(place / "runs" / "x", run)
    file = run / "model" / "model.safetensors"
    state = load_file(file)
    state[WEIGHT][3, 4] = float("nan")
    save_file(state, file)
    return run


@pytest.mark.parametrize("door", DOORS)
def test_the_file_and_the_weight_are_named(
    door: str, diverged: Path, place: Path, tmp_path: Path
) -> None:
    words = [str(diverged) if word == "RUN" else word for word in DOORS[door]]
    file = diverged / "model" / "model.safetensors"
    keys = {"teacher": f"teacher.run={diverged}", "initial weights": f"init.weights={file}"}
    key = ""
    if door in keys:
        key = keys[door].partition("=")[0] + ": "
        words += [keys[door], "--out", str(tmp_path / "new")]
    ended = run_here(*words, cwd=place, code=1)
    assert f"error: {key}{file}: {WEIGHT} (1 NaN of" in ended.err
    assert "nan" not in ended.out
    assert "%" not in ended.out  # no figure


def test_predict_from_python(place: Path) -> None:
    trained = load_exported(place / "runs" / "x" / "model")
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert trained.predict(images).isfinite().all()
    head = trained.model.get_submodule("head")
    assert isinstance(head, torch.nn.Linear)
    bias = head.bias.data.clone()
    head.bias.data[2] = float("nan")
    with pytest.raises(VitrellisError, match=r"head\.bias \(1 NaN of 10 values\)"):
        trained.predict(images)
    head.bias.data.copy_(bias)
    images[1] = 255
    with torch.no_grad():  # the last norm makes all features of unit size, times these
        trained.model.get_parameter("norm.weight").fill_(3e38)
        head.weight.fill_(3e38)
    with pytest.raises(VitrellisError, match=r"b\.png.*the (in|out)put of \w+ \(\w+\) is not"):
        trained.predict(images[1:], ["b.png"])
